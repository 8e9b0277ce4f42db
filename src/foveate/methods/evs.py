"""EVS: of a video, what hardly changed since the frame before is not said again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, every_few, pick, top
from foveate.core.tokens import VisualTokens


class EVS(Compressor):
    """Drop what hardly changed since the frame before. Bagrov et al. 2025, arXiv:2510.14624.

    A token's change is 1 − its cosine with the token at the same place one frame earlier. The first frame
    stays whole, and of all later frames together those that changed most, until `keep` is spent. A budget
    that is less than the first frame keeps even steps of it, and so it does of an image, whose tiles are no
    frames.

    Differs from the paper: it compares colours, here tokens are compared before the language model, as the
    authors' released code does. It sets a share of what is dropped, here exactly `keep` stay.
    """

    needs = frozenset({"grid", "overview"})
    selects = True
    renumbered = False

    def __init__(self, keep: Keep = 0.25):
        super().__init__()
        self.keep, self.site = check_keep(keep), language(0)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The first frame, and what changed most. tokens.x (B, N, D)."""
        valid, n = tokens.valid, budget(self.keep, tokens.counts[:, None])
        first = _before(tokens, context.grid, context.overview) < 0
        kept = every_few(first & valid, n)
        left = n - kept.sum(1, keepdim=True)
        return tokens.where(kept | top(self.scores(tokens, context), left, valid & ~kept))

    @torch.no_grad()
    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) how far each token changed; of the first frame 2, as much as anything can."""
        before = _before(tokens, context.grid, context.overview)
        x = tokens.x.float()
        change = 1 - torch.cosine_similarity(x, pick(x, before.clamp(min=0)), dim=-1)
        return change.masked_fill(before < 0, 2.0)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep}


def _before(tokens: VisualTokens, grid: Tensor, overview: Tensor) -> Tensor:
    """(B, N) the token at the same place one frame earlier; -1 where there is none, as in all of an image.

    grid (B, P, 3) view, row and column of each patch; overview (B, P) somewhere True in an image of tiles.
    """
    view, row, column = grid.unbind(-1)
    rows, columns = (int(n.max()) + 2 for n in (row, column))  # a class token stands at -1
    place = (view * rows + row + 1) * columns + column + 1
    place = place.masked_fill(view < 0, int(place.max()) + 1)
    carrier = tokens.owner.new_full((len(place), int(place.max()) + 1), -1)
    carrier = carrier.scatter(1, place, tokens.owner)
    earlier = carrier.gather(1, (place - rows * columns).clamp(min=0))
    framed = (view > 0) & ~overview.any(1, keepdim=True)
    return tokens.of_first(earlier.masked_fill(~framed, -1))
