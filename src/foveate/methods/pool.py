"""Average pooling, in reading order or over the grid, before the language model or inside it."""

from __future__ import annotations

from typing import Any

import torch

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, real, stride_of, whole, windows
from foveate.core.tokens import VisualTokens


class Pool(Compressor):
    """Mean of neighbouring tokens; LLaVolta's compressor. Chen et al. 2024, arXiv:2406.20092.

    dims=1 averages every `stride` tokens in reading order, dims=2 every window of `stride` × `stride`
    patches. layer 0 pools the projector's output, layer K the residual stream before decoder layer K.
    The last run and the windows at the edges may be smaller. Windows are of the model's own patches:
    behind a method that fused 2 × 2 of them, stride 2 changes nothing and stride 4 joins four tokens.
    A pooled token sits at the floor of the mean position of its members. ValueError if stride < 1 or
    dims is not 1 or 2.
    """

    selects = True

    def __init__(self, stride: int = 4, layer: int = 0, dims: int = 1):
        super().__init__()
        self.stride, self.dims, self.site = whole("stride", stride), real(dims), language(layer)
        if self.dims not in (1, 2):
            raise ValueError(f"dims={dims!r}: want 1 (reading order) or 2 (windows of the grid)")
        self.needs = frozenset({"grid"} if self.dims == 2 else ())

    @property
    def keeps_all(self) -> bool:
        """With nothing to pool."""
        return self.stride == 1

    @classmethod
    def keeping(
        cls, keep: Keep | None = None, layer: int = 0, dims: int = 1, stride: int | None = None
    ) -> Pool:
        """The pooling that keeps about this share: 1/stride, or 1/stride² over the grid; or that stride.

        Raises ValueError for shares that are not of that form (within 2 %), for numbers of tokens, and
        for keep and stride at once.
        """
        if keep is not None and stride is not None:
            raise ValueError(f"keep={keep!r} and stride={stride!r} say the same thing: give one")
        if keep is None:
            return cls(4 if stride is None else stride, layer, dims)
        return cls(stride_of(keep, dims), layer, dims)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Means of neighbours. tokens.x (B, N, D)."""
        if self.stride == 1:
            return tokens
        B, N, _ = tokens.x.shape
        if self.dims == 1:
            into = torch.arange(N, device=tokens.x.device).expand(B, N) // self.stride
            return tokens.merge(into, -(-N // self.stride))
        return tokens.merge(*windows(tokens.of_first(context.grid), self.stride, tokens.valid))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"stride": self.stride, "layer": self.site.layer, "dims": self.dims}
