"""SCOPE: every token taken is to cover what no other does, and to matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, Site, Tower, language
from foveate.core.ops import Keep, budget, check_keep, choice, cosine, in_front, number, pick
from foveate.core.tokens import VisualTokens
from foveate.core.views import by_view, left_by_view

NOTHING = 1e-9  # what is left of a sum of cosines when all is covered


class SCOPE(Compressor):
    """Keep tokens that cover the others and are looked at. Deng et al. 2025, arXiv:2510.24214.

    Greedy: a token gains, over all others, what its cosine has above that of the tokens taken so far, times
    the class token's attention to the power of `saliency`; the largest gain is taken. It stands before the
    projector, or with `projected` behind it, for models whose projector does not take tokens one by one.
    With `per_view`, keep is of every view of an image, as in the paper on LLaVA-NeXT. ValueError for a
    negative saliency.

    Differs from the paper: it chooses in float32, the authors' code in the model's own precision; positions
    are kept unless `compress(…, positions="renumbered")`.
    """

    needs = frozenset({"cls_attention"})
    selects = True
    behind = "SCOPE(projected=True)"

    def __init__(
        self,
        keep: Keep = 64,
        saliency: float = 1.0,
        projected: bool = False,
        per_view: bool = False,
    ):
        super().__init__()
        self.keep, self.saliency = check_keep(keep), number("saliency", saliency)
        self.projected, self.per_view = projected, choice("per_view", per_view, (True, False))
        self.needs = type(self).needs | frozenset({"grid"} if per_view else ())
        self.site = language(0) if projected else Site(Tower.features)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens of the largest gains. tokens.x (B, N, D)."""
        return by_view(self._pruned, tokens, context.grid, context.cls_attention)

    @torch.no_grad()
    def _chosen(self, tokens: VisualTokens, attention: Tensor) -> Tensor:
        valid, n = tokens.valid, budget(self.keep, tokens.counts[:, None])
        alike = cosine(tokens.x, tokens.x)  # in place from here: at 2,880 tokens it is large
        alike.masked_fill_(~(valid[:, None] & valid[..., None]), 0).relu_()
        weight = attention.float() ** self.saliency
        covered, taken = torch.zeros_like(weight), torch.zeros_like(valid)
        gain = alike.sum(-1, dtype=torch.float64)
        for step in range(int(n.max())):
            best = (gain * weight).masked_fill(taken | ~valid, -torch.inf).argmax(1, keepdim=True)
            taken = taken | torch.zeros_like(taken).scatter(1, best, step < n)
            now = covered.maximum(pick(alike, best)[:, 0])
            gain = gain - _less(alike, covered, now)
            gain = gain.masked_fill(gain < NOTHING, 0)  # equal ones go to the earlier token
            covered = now
        return taken

    def _pruned(self, tokens: VisualTokens, attention: Tensor) -> VisualTokens:
        return tokens.where(self._chosen(tokens, attention))

    def left(self, count: int, grid: Tensor) -> int | None:
        """As many as `keep` says, of the image or of its views."""
        return left_by_view(self.keep, count, grid) if self.per_view else super().left(count, grid)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        names = ("keep", "saliency", "projected", "per_view")
        return {name: getattr(self, name) for name in names}


def _less(alike: Tensor, covered: Tensor, now: Tensor) -> Tensor:
    """(B, N) how much less each token gains, as others are covered better: few of them are, after some steps.

    alike (B, N, N), covered and now (B, N).
    """
    better = now > covered
    index = in_front(better, int(better.sum(1).max()))
    some = pick(alike, index).double()
    before, after = (level.gather(1, index)[..., None] for level in (covered, now))
    return ((some - before).relu() - (some - after).relu()).sum(1)
