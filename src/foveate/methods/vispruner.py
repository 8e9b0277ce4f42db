"""VisPruner: what the class token looks at, and of the rest what is not said twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, Site, Tower, language
from foveate.core.ops import Keep, budget, check_keep, choice, cosine, in_front, pick, real, top
from foveate.core.tokens import VisualTokens
from foveate.core.views import by_view, left_by_view

ROUND = 8  # tokens that leave in one round


class VisPruner(Compressor):
    """Keep what the class token looks at, and what is unlike the rest. Zhang et al. 2024, arXiv:2412.01818.

    A share `important` of the budget goes by attention. The other tokens stand in that order; again and
    again every second is compared with those between, and the 8 most alike leave, until the budget is met.
    It stands before the projector, or with `projected` behind it, for models whose projector does not take
    tokens one by one. With `per_view`, keep is of every view of an image, as in the paper on LLaVA-NeXT.
    ValueError unless 0 <= important <= 1.

    Differs from the paper: positions are kept unless `compress(…, positions="renumbered")`. Odd numbers of
    tokens, which the authors' code does not take, leave one more to compare.
    """

    needs = frozenset({"cls_attention"})
    selects = True
    behind = "VisPruner(projected=True)"

    def __init__(
        self,
        keep: Keep = 64,
        important: float = 0.5,
        projected: bool = False,
        per_view: bool = False,
    ):
        super().__init__()
        self.important = real(important)
        if self.important is None or not 0 <= self.important <= 1:
            raise ValueError(f"important={important!r}: want a share of the budget in [0, 1]")
        self.keep, self.projected = check_keep(keep), projected
        self.per_view = choice("per_view", per_view, (True, False))
        self.needs = type(self).needs | frozenset({"grid"} if per_view else ())
        self.site = language(0) if projected else Site(Tower.features)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Important and diverse tokens. tokens.x (B, N, D)."""
        return by_view(self._pruned, tokens, context.grid, context.cls_attention)

    @torch.no_grad()
    def _chosen(self, tokens: VisualTokens, attention: Tensor) -> Tensor:
        n = budget(self.keep, tokens.counts[:, None])
        important = (n.double() * self.important).floor().long()
        chosen = top(attention, important, tokens.valid)
        return chosen | _diverse(tokens.x, attention, tokens.valid & ~chosen, n - important)

    def _pruned(self, tokens: VisualTokens, attention: Tensor) -> VisualTokens:
        return tokens.where(self._chosen(tokens, attention))

    def left(self, count: int, grid: Tensor) -> int | None:
        """As many as `keep` says, of the image or of its views."""
        return left_by_view(self.keep, count, grid) if self.per_view else super().left(count, grid)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        names = ("keep", "important", "projected", "per_view")
        return {name: getattr(self, name) for name in names}


def _diverse(x: Tensor, attention: Tensor, rest: Tensor, n: Tensor) -> Tensor:
    """(B, N) True at n tokens of each row's rest. x (B, N, D), attention and rest (B, N), n (B, 1)."""
    cosines, count = cosine(x, x), rest.sum(1, keepdim=True)
    order = attention.float().argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, in_front(rest.gather(1, order), order.shape[1]))
    while bool((count > n).any()):
        order = order[:, : max(int(count.max()), 2)]
        there = torch.arange(order.shape[1], device=order.device) < count
        even, odd = order[:, ::2], order[:, 1::2]
        alike = pick(cosines, even).gather(2, odd[:, None].expand(-1, even.shape[1], -1))
        alike = alike.masked_fill(~there[:, None, 1::2], -2).amax(-1)  # less than any cosine
        alike = alike.masked_fill(~there[:, ::2], -torch.inf)
        by = alike.argsort(dim=1, descending=True, stable=True)
        leave = (count - n).clamp(0, ROUND).minimum((count + 1) // 2)
        stays = there[:, ::2] & (torch.arange(even.shape[1], device=order.device) >= leave)
        stays = torch.cat([stays, there[:, 1::2]], dim=1)
        order = torch.cat([even.gather(1, by), odd], dim=1)
        order = order.gather(1, in_front(stays, order.shape[1]))
        count = count - leave
    left = torch.arange(order.shape[1], device=order.device) < count
    return torch.zeros_like(rest).scatter(1, order, left)
