"""k-means: tokens that are alike become their mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, pick, real
from foveate.core.tokens import VisualTokens


class KMeans(Compressor):
    """Merge tokens into k means, in one iteration. Chen et al. 2024, arXiv:2406.20092.

    A baseline of the paper on LLaVolta. Every S-th of N = S·k tokens is an initial centre; each token
    joins the nearest one in L1 distance, the earlier of two as near, and a centre joins itself, so
    exactly k are left. `soft` means weigh every token by a softmax over the centres of minus its
    distance, in units of `temperature` times the mean distance of the row (ours); a token's owner is its
    most likely centre. An L1 distance is no matrix product: of 2,880 tokens it takes several times as long as
    one. ValueError unless temperature > 0.

    Differs from the paper: where k does not divide N, centres stand at ⌊i·N/k⌋; a mean stands where
    its first member stood and sits at the floor of the mean position of its members.
    """

    selects = True

    def __init__(
        self, keep: Keep = 0.125, layer: int = 2, soft: bool = False, temperature: float = 0.1
    ):
        super().__init__()
        self.temperature = real(temperature)
        if self.temperature is None or not self.temperature > 0:
            raise ValueError(f"temperature={temperature!r}: want a number > 0")
        self.keep, self.site = check_keep(keep), language(layer)
        self.soft, self.selects = soft, not soft

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """One mean for each initial centre. tokens.x (B, N, D)."""
        centre, there = self._centres(tokens)
        k = centre.shape[1]
        x = tokens.x.to(torch.promote_types(tokens.x.dtype, torch.float32))
        # (B, N, k); a place without a centre is out of reach.
        far = torch.cdist(x, pick(x, centre), p=1)
        nearest = far.masked_fill(~there[:, None], torch.inf).argmin(-1)
        number = torch.arange(k, device=centre.device).expand_as(centre)
        # Twins of an earlier centre are as near to it as to themselves, and stay centres all the same.
        own = torch.full_like(nearest, -1).scatter_reduce(
            1, centre, number.masked_fill(~there, -1), "amax"
        )
        into = torch.where(own >= 0, own, nearest)
        means = self._means(tokens, x, far, there) if self.soft else None
        return tokens.merge(into, k, means)

    def _centres(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """(B, k) the tokens that are initial centres, and which of these places a row has."""
        count = tokens.counts[:, None]
        k = budget(self.keep, count)
        place = torch.arange(int(k.max()), device=k.device)
        there = place < k
        return (place * count // k.clamp(min=1)).where(there, 0), there

    def _means(self, tokens: VisualTokens, x: Tensor, far: Tensor, there: Tensor) -> Tensor:
        """(B, k, D) soft means: every token counts by its size and its share in the centre."""
        pairs = (tokens.valid[..., None] & there[:, None]).to(far.dtype)
        typical = (far * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
        unit = (typical * self.temperature).clamp(min=torch.finfo(far.dtype).tiny)
        # Padding may be so far away that its logits are all -inf; it is left out below, unless NaN.
        near = (-far / unit[:, None, None]).masked_fill(~tokens.valid[..., None], 0)
        likely = near.masked_fill(~there[:, None], -torch.inf)
        weight = likely.softmax(-1).masked_fill(~there[:, None], 0) * pairs * tokens.size[..., None]
        total = weight.sum(1)[..., None].clamp(min=torch.finfo(far.dtype).tiny)
        return (weight.mT @ x / total).to(tokens.x.dtype)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {
            "keep": self.keep,
            "layer": self.site.layer,
            "soft": self.soft,
            "temperature": self.temperature,
        }
