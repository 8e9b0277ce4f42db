"""The middle of the picture: what a photographer's habit is worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, check_keep, top
from foveate.core.tokens import VisualTokens


class Crop(Compressor):
    """Keep the tokens nearest to the middle of their view. A baseline: no paper.

    What is kept is a picture of the same shape, cut out of the middle; of several views, of each.
    """

    needs = frozenset({"grid"})
    selects = True

    def __init__(self, keep: Keep = 0.5, layer: int = 0):
        super().__init__()
        self.keep, self.site = check_keep(keep), language(layer)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens in the middle. tokens.x (B, N, D)."""
        return tokens.where(top(self.scores(tokens, context), self.keep, tokens.valid))

    @torch.no_grad()
    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) how near to the middle each token is: 0 there, −1 at the edge of its view."""
        view, cell = context.grid.clamp(min=0).split([1, 2], dim=-1)
        view = view.expand_as(cell)
        ends = cell.new_zeros(len(cell), int(view.max()) + 1, 2)
        middle = ends.scatter_reduce(1, view, cell, "amax").gather(1, view) / 2
        far = ((cell - middle).abs() / middle.clamp(min=0.5)).amax(-1)
        return tokens.of_first(-far)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer}
