"""The views of an image apart, for methods whose budget is each view's own, and together again.

Letters: B images, V views of one, P patches, N tokens of an image, n of a view, M left of a view.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foveate.core.ops import Keep, budget, in_front, pick
from foveate.core.tokens import DROPPED, VisualTokens


def tiles(grid: Tensor) -> Tensor:
    """(B, P) which view each patch is of, counted from 0. grid (B, P, 3), padding -1.

    Where the tiles of an image are joined to one view, as LLaVA-NeXT's behind the whole image, each tile is
    a view: a part of it as large as the image's first view.
    """
    view, cell = grid[..., 0].clamp(min=0), grid[..., 1:].clamp(min=0)
    side = cell.masked_fill((view > 0)[..., None], 0).amax(1, keepdim=True) + 1
    row, column = (cell // side).unbind(-1)
    tile = (view * (row.max() + 1) + row) * (column.max() + 1) + column
    return tile.unique(return_inverse=True)[1]


def left_by_view(keep: Keep, count: int, grid: Tensor) -> int | None:
    """What a budget of each view's own leaves of an image. grid (P, 3).

    None where `count` tokens are no longer its patches.
    """
    if count != len(grid):
        return None
    return int(budget(keep, tiles(grid[None])[0].bincount()).sum())


def by_view(
    act: Callable[..., VisualTokens], tokens: VisualTokens, grid: Tensor | None, *fields: Tensor
) -> VisualTokens:
    """What `act(tokens, *fields)` makes of every view by itself, or of whole images where grid is None.

    grid (B, P, 3), fields (B, N, …).
    """
    if grid is None:
        return act(tokens, *fields)
    rows, apiece = apart(tokens, tiles(grid), *fields)
    return together(act(rows, *apiece), len(tokens.x))


def apart(tokens: VisualTokens, view: Tensor, *fields: Tensor) -> tuple[VisualTokens, list[Tensor]]:
    """Every view a row of its own, B·V in all, and so what stands beside the tokens.

    view (B, P), fields (B, N, …).
    """
    every = torch.arange(int(view.max()) + 1, device=view.device)
    mine = (tokens.of_first(view)[:, None] == every[:, None]) & tokens.valid[:, None]  # (B, V, N)
    count = mine.sum(-1, keepdim=True)
    order = in_front(mine, int(count.max()))
    valid = torch.arange(order.shape[-1], device=view.device) < count

    def of_views(x: Tensor) -> Tensor:
        return pick(x, order.flatten(1)).unflatten(1, order.shape[1:]).flatten(0, 1)

    rank = (mine.cumsum(-1) - 1).masked_fill(~mine, DROPPED)
    owner = tokens.owner[:, None].expand(-1, len(every), -1)
    owner = torch.where(owner < 0, owner, rank.gather(-1, owner.clamp(min=0)))
    valid, owner = valid.flatten(0, 1), owner.flatten(0, 1)
    x = of_views(tokens.x).masked_fill(~valid[..., None], 0)
    return VisualTokens(x, owner, valid, tokens.penalty), [of_views(field) for field in fields]


def together(rows: VisualTokens, images: int) -> VisualTokens:
    """What is left of the views of each image, one row again, in the order of the first patches."""
    x, owner, valid = (part.unflatten(0, (images, -1)) for part in (rows.x, rows.owner, rows.valid))
    begin = torch.arange(x.shape[1], device=x.device)[:, None] * x.shape[2]
    owner = torch.where(owner < 0, owner, owner + begin).amax(1)  # a patch is of one view
    return VisualTokens(x.flatten(1, 2), owner, valid.flatten(1), rows.penalty).in_order()
