"""HiPrune: middle blocks of the tower look at objects, deep ones at the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, choice, neighbours, real, top, whole
from foveate.core.sizes import scaled_block
from foveate.core.tokens import VisualTokens
from foveate.core.views import by_view, left_by_view

MIDDLE = 8  # of 24 blocks, from 0
BESIDE = [1, 3, 5, 7]  # of 3 × 3 cells: above, left, right, below


class HiPrune(Compressor):
    """Keep what a middle and a deep block of the tower look at. Liu et al. 2025, arXiv:2508.00553.

    A fifth of the share `anchors` of the budget goes to the tokens that get most attention from all others
    in block 8 of 24, and with each come the four beside it. The others are those that get most in the block
    that makes the features. With `per_view`, keep is of every view of an image, as in the paper on
    LLaVA-NeXT. tower_layers, feature_layer: blocks of the tower and the hidden state that is the feature
    (`foveate.sized` takes them from the model); the middle block is scaled to them. ValueError unless
    0 <= anchors <= 1.

    Differs from the paper: at the edge of the picture a token has fewer neighbours, where the authors' code
    goes on in the next row; positions are kept unless `compress(…, positions="renumbered")`.
    """

    needs = frozenset({"received", "grid"})
    selects = True

    def __init__(
        self,
        keep: Keep = 64,
        anchors: float = 0.1,
        per_view: bool = False,
        tower_layers: int = 24,
        feature_layer: int = 23,
    ):
        super().__init__()
        self.anchors = real(anchors)
        if self.anchors is None or not 0 <= self.anchors <= 1:
            raise ValueError(f"anchors={anchors!r}: want a share of the budget in [0, 1]")
        self.keep, self.site = check_keep(keep), language(0)
        self.per_view = choice("per_view", per_view, (True, False))
        self.tower_layers = whole("tower_layers", tower_layers)
        self.feature_layer = whole("feature_layer", feature_layer)
        self.vision_blocks = (scaled_block(MIDDLE, self.tower_layers), self.feature_layer - 1)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Anchors, what is beside them, and what gets most in the deep block. tokens.x (B, N, D)."""
        middle, deep = (context.received[i] for i in self.vision_blocks)
        grid, cell = context.grid, tokens.of_first(context.grid)
        return by_view(self._pruned, tokens, grid if self.per_view else None, middle, deep, cell)

    def _pruned(
        self, tokens: VisualTokens, middle: Tensor, deep: Tensor, cell: Tensor
    ) -> VisualTokens:
        valid, n = tokens.valid, budget(self.keep, tokens.counts[:, None])
        anchor = top(middle, (n.double() * self.anchors / 5).round().long(), valid)
        beside = neighbours(cell, valid)[..., BESIDE]
        near = torch.zeros(valid.shape, device=valid.device)
        came = anchor[..., None].expand_as(beside).float()
        near = near.scatter_reduce(1, beside.flatten(1), came.flatten(1), "amax") > 0
        chosen = anchor | top(deep, n - anchor.sum(1, keepdim=True), near & valid & ~anchor)
        left = n - chosen.sum(1, keepdim=True)
        return tokens.where(chosen | top(deep, left, valid & ~chosen))

    def left(self, count: int, grid: Tensor) -> int | None:
        """As many as `keep` says, of the image or of its views."""
        return left_by_view(self.keep, count, grid) if self.per_view else super().left(count, grid)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        names = ("keep", "anchors", "per_view", "tower_layers", "feature_layer")
        return {name: getattr(self, name) for name in names}
