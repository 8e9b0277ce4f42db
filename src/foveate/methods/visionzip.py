"""VisionZip: the tokens the class token looks at, and a summary of the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, Site, Tower, language
from foveate.core.ops import Keep, budget, check_keep, choice, cosine, every_few, real, top
from foveate.core.tokens import VisualTokens
from foveate.core.views import by_view, left_by_view


class VisionZip(Compressor):
    """Keep what the class token looks at, merge the rest by keys. Yang et al. 2024, arXiv:2412.04467.

    Of the budget a share `contextual` (10 of 64) goes to merged tokens: every few of the remaining
    tokens is a target, each other one joins the target with the most similar key, and the target
    becomes itself plus the mean of those that joined it. ValueError unless 0 <= contextual < 1.
    It stands before the projector, or with `projected` behind it, for models whose projector does not
    take tokens one by one. With `per_view`, keep is of every view of an image, tile or frame, and each is
    compressed by itself; else of the image, and all its views compete.

    Of the authors' layout, compress(…, positions="renumbered") has the positions, and per_view with
    newlines="none" the budget on LLaVA-NeXT; contextual=0 is `fastervlm`. Not to be had: the class token,
    which they pass on first and count, so one patch more stands here; and merged tokens behind all others:
    here tokens stand in the order of their first patch.
    """

    needs = frozenset({"cls_attention", "keys"})
    selects = True
    behind = "VisionZip(projected=True)"

    def __init__(
        self,
        keep: Keep = 64,
        contextual: float = 10 / 64,
        projected: bool = False,
        per_view: bool = False,
    ):
        super().__init__()
        self.contextual = real(contextual)
        if self.contextual is None or not 0 <= self.contextual < 1:
            raise ValueError(f"contextual={contextual!r}: want a share of the budget in [0, 1)")
        self.keep, self.projected = check_keep(keep), projected
        self.per_view = choice("per_view", per_view, (True, False))
        self.needs = type(self).needs | frozenset({"grid"} if per_view else ())
        self.site = language(0) if projected else Site(Tower.features)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Dominant and contextual tokens. tokens.x (B, N, D)."""
        return by_view(self._zipped, tokens, context.grid, context.cls_attention, context.keys)

    def _zipped(self, tokens: VisualTokens, attention: Tensor, keys: Tensor) -> VisualTokens:
        """Each row by itself. attention (B, N), keys (B, N, d)."""
        n = budget(self.keep, tokens.counts[:, None])
        merged = (n * self.contextual + 0.5).floor().long().minimum(n - 1)
        dominant = top(attention, n - merged, tokens.valid)
        # A row whose budget has no contextual share drops the rest; in the others nothing moves yet.
        tokens = tokens.where(dominant | (merged > 0))
        N = tokens.x.shape[1]
        dominant = torch.where(merged > 0, dominant[:, :N], tokens.valid)
        rest = tokens.valid & ~dominant
        target = every_few(rest, merged)

        keys = keys[:, :N]
        nearest = cosine(keys, keys).masked_fill(~target[:, None], -torch.inf).argmax(-1)
        joins = rest & ~target
        into = torch.where(joins, nearest, torch.arange(N, device=rest.device))
        return tokens.merge(into, N, _plus_mean(tokens.x, into, joins))

    def left(self, count: int, grid: Tensor) -> int | None:
        """As many as `keep` says, of the image or of its views."""
        return left_by_view(self.keep, count, grid) if self.per_view else super().left(count, grid)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        names = ("keep", "contextual", "projected", "per_view")
        return {name: getattr(self, name) for name in names}


def _plus_mean(x: Tensor, into: Tensor, joins: Tensor) -> Tensor:
    """x plus, at every target, the mean of the tokens that join it. x (B, N, D), into and joins (B, N)."""
    weight = joins.to(x.dtype)
    count = torch.zeros_like(weight).scatter_add(1, into, weight)
    joined = (x * weight[..., None]).float()
    total = torch.zeros_like(joined).scatter_add(1, into[..., None].expand_as(joined), joined)
    return x + (total / count.clamp(min=1)[..., None]).to(x.dtype)
