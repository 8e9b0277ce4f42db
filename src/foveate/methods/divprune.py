"""DivPrune: keep the most diverse tokens, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, cosine, pick
from foveate.core.sampled import budgets, shares
from foveate.core.tokens import VisualTokens


class DivPrune(Compressor):
    """Keep tokens that lie as far apart as possible. Alvar et al. 2025, arXiv:2503.02175.

    Greedy max-min on cosine distance: first the token whose nearest neighbour is farthest, then again
    and again the token farthest from all that were taken. Reads nothing but the tokens. sampled: (least,
    most) shares; in training each image draws its budget between them. ValueError for what are none.

    Differs from the paper: positions are kept unless `compress(…, positions="renumbered")`; a language model
    can be trained behind it, at any budgets.
    """

    selects = True

    def __init__(
        self,
        keep: Keep = 0.098,
        layer: int = 0,
        sampled: Sequence[float] | None = None,
    ):
        super().__init__()
        self.keep, self.site = check_keep(keep), language(layer)
        self.sampled = shares(sampled)
        self.elastic = self.sampled is not None
        self.needs = frozenset({"generator"} if self.elastic else ())

    @torch.no_grad()
    def _chosen(self, tokens: VisualTokens, n: Tensor) -> Tensor:
        """(B, N) True at the tokens taken, n (B, 1) of each image."""
        valid = tokens.valid
        # In place, for at 2,880 tokens this one is as large as all that the model holds behind it.
        far = cosine(tokens.x, tokens.x).neg_().add_(1).masked_fill_(~valid[:, None], torch.inf)
        far.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        # With nothing taken yet, a token's distance is that to its nearest neighbour.
        distance = far.amin(-1).masked_fill(~valid, -torch.inf)
        taken = torch.zeros_like(valid)
        for step in range(int(n.max())):
            best = distance.argmax(1, keepdim=True)
            taken = taken | torch.zeros_like(taken).scatter(1, best, step < n)
            nearest = pick(far, best)[:, 0]
            distance = nearest if step == 0 else distance.minimum(nearest)
            distance = distance.masked_fill(taken | ~valid, -torch.inf)
        return taken

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The most diverse tokens. tokens.x (B, N, D)."""
        count = tokens.counts[:, None]
        drawn = self.training and self.elastic
        n = budgets(self.sampled, context.generator, count) if drawn else budget(self.keep, count)
        return tokens.where(self._chosen(tokens, n))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        sampled = None if self.sampled is None else [*self.sampled]
        return {"keep": self.keep, "layer": self.site.layer, "sampled": sampled}
