"""Where patches stand: the grid of every image, tile and frame, and how towers' tokens merge into it.

Letters: U units (what a model's feature function counts: an image, a tile, a frame), n patches of one,
S tokens of the vision tower for one unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.hosts import traits

OUTSIDE = -1  # row and column of a token that stands for a whole view, such as a class token


def of_units(
    base: nn.Module,
    modality: str,
    given: dict[str, Any],
    sizes: Sequence[int],
    newlines: Sequence[Tensor] | None,
) -> list[Tensor | None]:
    """(n, 3) view, row and column of each patch, unit by unit; None where nothing tells.

    given: the arguments of the feature function; sizes: patches of each unit, newlines included;
    newlines (n,) True where a row ends in one.
    """
    grid_thw = given.get(f"{modality}_grid_thw")
    if grid_thw is not None:
        merge = traits.merge_size(base)
        return [_box(t, h // merge, w // merge) for t, h, w in grid_thw.tolist()]
    sized = given.get("image_sizes")
    pixels = given.get("pixel_values_videos" if modality == "video" else "pixel_values")
    if newlines is not None:
        frames = pixels.shape[1] if modality == "video" else None
        known = [None] * len(newlines) if sized is None else torch.as_tensor(sized).tolist()
        packed = zip(newlines, known, strict=True)
        return [_with_newlines(base, mask, frames, size) for mask, size in packed]
    if sized is not None:
        step = traits.patch_size(base) * traits.merge_size(base)
        return [_box(1, int(h) // step, int(w) // step) for h, w in torch.as_tensor(sized).tolist()]
    return [_tiles(n, traits.tokens_of_tile(base, pixels)) for n in sizes]


def _box(views: int, rows: int, columns: int) -> Tensor:
    cells = torch.meshgrid(*(torch.arange(n) for n in (views, rows, columns)), indexing="ij")
    return torch.stack(cells, dim=-1).reshape(-1, 3)


def _square(n: int, view: int = 0) -> Tensor | None:
    """One view of n patches in a square, or of a class token and a square."""
    side = math.isqrt(n)
    if side * side == n:
        return _box(1, side, side) + torch.tensor([view, 0, 0])
    side = math.isqrt(n - 1)
    if side * side != n - 1:
        return None
    alone = torch.tensor([[view, OUTSIDE, OUTSIDE]])
    return torch.cat([alone, _box(1, side, side) + torch.tensor([view, 0, 0])])


def stacked(grids: Sequence[Tensor]) -> Tensor:
    """(P, 3) several grids as the views of one image."""
    return torch.cat([grid + torch.tensor([i, 0, 0]) for i, grid in enumerate(grids)])


def _tiles(n: int, tile: int | None) -> Tensor | None:
    """Square views one behind the other: all n patches in one, or `tile` in each."""
    if tile is None or n % tile:
        return _square(n)
    views = [_square(tile, view) for view in range(n // tile)]
    if any(view is None for view in views):
        return None
    return torch.cat(views) if views else torch.zeros(0, 3, dtype=torch.long)


def _with_newlines(
    base: nn.Module, newline: Tensor, frames: int | None, size: list[int] | None
) -> Tensor | None:
    """LLaVA-NeXT's order: the whole image, then its high-resolution tiles, joined, row by row.

    The joined tiles are one view. A video is its frames and a single newline. Newlines stand outside.
    """
    grid = torch.full((len(newline), 3), OUTSIDE)
    patches = int((~newline).sum())
    if frames is not None:
        cells = _tiles(patches, patches // frames)
    else:
        first = _in_front(base, newline) or patches
        cells = _square(first)
        if cells is not None and patches > first:
            cells = torch.cat([cells, _joined(base, newline[first:], size)])
    if cells is None:
        return None
    grid[~newline] = cells
    return grid


def _joined(base: nn.Module, newline: Tensor, size: list[int] | None) -> Tensor:
    """(n, 3) where the patches of joined tiles stand, n of them without newlines; they are view 1.

    Counted from the corner of the first tile, so that tiles begin at multiples of their side, though the
    borders are cut off that an image of this size does not fill. Where the model makes an image smaller,
    no patch is of one tile any more: counted from 0. size: height, width.
    """
    if size is not None:
        cells = _uncut(base, size).flatten(1).T
        if len(cells) == int((~newline).sum()):
            return cells
    row = newline.long().cumsum(0) - newline.long()
    place = torch.arange(len(newline))
    begin = torch.where(newline, place + 1, 0).cummax(0).values
    return torch.stack([torch.ones_like(row), row, place - begin], dim=-1)[~newline]


def _uncut(base: nn.Module, size: Sequence[int]) -> Tensor:
    """(3, rows, columns) the patches of joined tiles, as view 1, without borders. size: height, width."""
    # Here: it takes a tenth of a second to read, which only models of joined tiles need.
    from transformers.models.llava_next.modeling_llava_next import (
        get_anyres_image_grid_shape,
        unpad_image,
    )

    tile = base.config.vision_config.image_size
    tiles = get_anyres_image_grid_shape(size, base.config.image_grid_pinpoints, tile)
    side = math.isqrt(traits.tokens_of_view(base))
    rows, columns = (n * side for n in tiles)
    whole = _box(1, rows, columns) + torch.tensor([1, 0, 0])
    return unpad_image(whole.reshape(rows, columns, 3).movedim(-1, 0), size)


def closed(base: nn.Module, size: Sequence[int], total: int) -> Tensor | None:
    """(P, 3) the patches of an image whose rows are closed by newlines, known by its height and width.

    total: its visual tokens, newlines included. None where the model makes the image smaller.
    """
    view = traits.tokens_of_view(base)
    if total == view + 1:
        return _square(view)
    cells = _uncut(base, size)
    if total != view + cells.shape[1] * (cells.shape[2] + 1):
        return None
    return torch.cat([_square(view), cells.flatten(1).T])


def overview(base: nn.Module, modality: str, grid: Tensor) -> Tensor:
    """(n,) True at the patches of the view that shows all of an image beside its tiles. grid (n, 3).

    Nowhere in an image of one view, nor in a video: its views are frames.
    """
    view, place = grid[:, 0], traits.whole_view(base)
    views = view.unique()
    if modality != "image" or place is None or len(views) < 2:
        return torch.zeros_like(view, dtype=torch.bool)
    return view == views[place]


def closing_newline(base: nn.Module, modality: str, newline: Tensor) -> Tensor:
    """(n,) which newline closes the row that each patch stands in, counted from 0; -1 for none.

    newline (n,) bool. The whole image in front of its tiles is closed by none; a video by its only one.
    """
    closes = newline.long().cumsum(0) - newline.long()
    closes = closes.masked_fill(closes >= int(newline.sum()), -1)
    if modality == "image":
        closes[: _in_front(base, newline)] = -1
    return closes


def _in_front(base: nn.Module, newline: Tensor) -> int:
    """Patches of the whole image in front of its joined tiles; 0 where there are no tiles.

    newline (n,) bool. Behind a view that stands alone, a class token with it, there is one newline; behind
    the joined tiles one a row, of a row without patches too.
    """
    view, patches, newlines = traits.tokens_of_view(base), int((~newline).sum()), int(newline.sum())
    return 0 if newlines == 1 and patches <= view + 1 else min(view, patches)


def merged(value: Tensor, patches: Tensor, sizes: Any, how: str) -> Tensor:
    """What tower tokens hold, brought to the patches that a connector makes of windows of them.

    value (U, S, …) beside patches (U, n, D), or one sequence (1, L, …) beside (M, D), whose images have
    `sizes` tokens (rows, columns), or lie window after window if that is None. how: "sum" or "mean".
    """
    rest = value.shape[2:]
    if patches.dim() == 2:
        windows = _of_sequence(value[0], len(patches), sizes)
    else:
        U, S = value.shape[:2]
        n = patches.shape[1]
        if n == S:
            return value
        side, window = math.isqrt(S), math.isqrt(S // n)
        windows = _windows(value.reshape(U, side, side, *rest), window).reshape(
            U, n, window * window, *rest
        )
    return windows.sum(-1 - len(rest)) if how == "sum" else windows.mean(-1 - len(rest))


def _of_sequence(value: Tensor, patches: int, sizes: Any) -> Tensor:
    """(M, window, …) of a sequence (L, …)."""
    rest, factor = value.shape[1:], len(value) // patches
    if sizes is None:
        return value.reshape(patches, factor, *rest)
    window, images = math.isqrt(factor), []
    for part, (h, w) in zip(value.split([h * w for h, w in sizes]), sizes, strict=True):
        cut = _windows(part.reshape(1, h, w, *rest), window)
        images.append(cut.reshape(-1, factor, *rest))
    return torch.cat(images)


def _windows(x: Tensor, side: int) -> Tensor:
    """x (U, H, W, …) → (U, H/side, W/side, side, side, …)."""
    U, H, W, *rest = x.shape
    x = x.reshape(U, H // side, side, W // side, side, *rest)
    return x.transpose(2, 3)
