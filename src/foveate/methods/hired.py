"""HiRED: the view of the whole picture says which tiles deserve tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.groups import apportioned, sizes, top_of_each
from foveate.core.ops import Keep, budget, check_keep, real, top
from foveate.core.tokens import VisualTokens


class HiRED(Compressor):
    """Give each tile what the whole view shows of it. Arif et al. 2024, arXiv:2408.10945.

    A share `overview` of the budget goes to the view of the whole image, the rest to its tiles: to each as
    much as its part of that view has of the patches that the class token looks at most in the tower's first
    block. In each, those it looks at most in the block that makes the features stay. An image without tiles
    and a video have one budget for all their tokens, by attention alone. ValueError unless 0 < overview <= 1.

    Differs from the paper: what rounding leaves over is used, and what a tile has no room for goes to the
    others. LLaVA-NeXT's tiles are told by where they lie, the authors' code cuts the view into runs; models
    that do not say how tiles lie have strips of it here. Borders that the model cuts off have no tokens.
    Positions are kept unless `compress(…, positions="renumbered")`, newlines unless newlines="none".
    """

    needs = frozenset({"cls_attention", "attentions", "grid", "overview"})
    vision_blocks = (0,)
    selects = True

    def __init__(self, keep: Keep = 0.2, overview: float = 0.5):
        super().__init__()
        self.overview = real(overview)
        if self.overview is None or not 0 < self.overview <= 1:
            raise ValueError(f"overview={overview!r}: want a share of the budget in (0, 1]")
        self.keep, self.site = check_keep(keep), language(0)

    @torch.no_grad()
    def _chosen(self, tokens: VisualTokens, context: Context) -> Tensor:
        valid, n = tokens.valid, budget(self.keep, tokens.counts[:, None])
        tiled = context.overview.any(1, keepdim=True)
        whole = tokens.of_first(context.overview | ~tiled) & valid
        tile = tokens.of_first(_tiles(context.grid, context.overview | ~tiled))
        G = int(tile.max()) + 1
        size = whole.sum(1, keepdim=True)
        wanted = (n.double() * torch.where(tiled, self.overview, 1.0)).floor().long()
        marks = (size.double() * (1 - self.overview)).floor().long()
        shown = sizes(tile, G, top(context.attentions[0], marks, whole))
        room = sizes(tile, G, valid & ~whole)
        of_tiles = apportioned(n - wanted.minimum(size), shown, room)
        each = torch.cat([n - of_tiles.sum(1, keepdim=True), of_tiles], dim=1)
        group = (tile + 1).masked_fill(whole, 0)
        return top_of_each(context.cls_attention, group, each, valid)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The most looked at of the whole view and of every tile. tokens.x (B, N, D)."""
        return tokens.where(self._chosen(tokens, context))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "overview": self.overview}


def _tiles(grid: Tensor, whole: Tensor) -> Tensor:
    """(B, P) which tile each patch is of, and of which one a patch of the whole view shows a part.

    grid (B, P, 3); whole (B, P) the view of the whole image, as large as a tile. Tiles that are joined to one
    view are parts of it; of others nothing says how they lie: they are one below the other.
    """
    view, place = grid[..., 0], grid[..., 1:].clamp(min=0)
    tiles = (view >= 0) & ~whole
    side = _spanned(place, whole)
    first = view.masked_fill(~tiles, int(view.max()) + 1).amin(1, keepdim=True)
    part = place // side
    down = (view - first) * _spanned(part, tiles)[..., 0].max() + part[..., 0]
    part = torch.stack([down, part[..., 1]], dim=-1)
    shape = _spanned(part, tiles)
    part = torch.where(whole[..., None], place * shape // side, part)
    return (part[..., 0] * shape[..., 1] + part[..., 1]).masked_fill(view < 0, 0)


def _spanned(place: Tensor, of: Tensor) -> Tensor:
    """(B, 1, 2) how many rows and columns these patches span. place (B, P, 2), of (B, P)."""
    return place.masked_fill(~of[..., None], 0).amax(1, keepdim=True) + 1
