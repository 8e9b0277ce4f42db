"""Average pooling, in reading order or over the grid, before the language model or inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, real, stride_of, whole, windows, windows_of
from foveate.core.tokens import VisualTokens


class Pool(Compressor):
    """Mean of neighbouring tokens; LLaVolta's compressor. Chen et al. 2024, arXiv:2406.20092.

    dims=1 averages every `stride` tokens in reading order, dims=2 every window of `stride` × `stride`
    patches. layer 0 pools the projector's output, layer K the residual stream before decoder layer K.
    The last run and the windows at the edges may be smaller. Windows are of the model's own patches:
    behind a method that fused 2 × 2 of them, stride 2 changes nothing and stride 4 joins four tokens.
    A pooled token sits at the floor of the mean position of its members. sampled: strides of which one is
    drawn for each image and step in training. ValueError if a stride is below 1 or dims is not 1 or 2.
    """

    selects = True

    def __init__(
        self,
        stride: int = 4,
        layer: int = 0,
        dims: int = 1,
        sampled: Sequence[int] | None = None,
    ):
        super().__init__()
        self.stride, self.dims, self.site = whole("stride", stride), real(dims), language(layer)
        if self.dims not in (1, 2):
            raise ValueError(f"dims={dims!r}: want 1 (reading order) or 2 (windows of the grid)")
        if sampled is not None and not (isinstance(sampled, list | tuple) and sampled):
            raise ValueError(f"sampled={sampled!r}: want a list of strides to draw from, or None")
        self.sampled = None if sampled is None else [whole("sampled", s) for s in sampled]
        needs = {"grid": self.dims == 2, "generator": self.sampled is not None}
        self.needs = frozenset(name for name, needed in needs.items() if needed)

    @property
    def keeps_all(self) -> bool:
        """With nothing to pool."""
        return self.stride == 1 and self.sampled is None

    @classmethod
    def keeping(
        cls,
        keep: Keep | None = None,
        layer: int = 0,
        dims: int = 1,
        stride: int | None = None,
        sampled: Sequence[int] | None = None,
    ) -> Pool:
        """The pooling that keeps about this share: 1/stride, or 1/stride² over the grid; or that stride.

        Raises ValueError for shares that are not of that form (within 2 %), for numbers of tokens, and
        for keep and stride at once.
        """
        if keep is not None and stride is not None:
            raise ValueError(f"keep={keep!r} and stride={stride!r} say the same thing: give one")
        if keep is None:
            return cls(4 if stride is None else stride, layer, dims, sampled)
        return cls(stride_of(keep, dims), layer, dims, sampled)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Means of neighbours. tokens.x (B, N, D)."""
        stride = self._strides(tokens, context)
        if stride.eq(1).all():
            return tokens
        stride = stride.to(tokens.x.device)
        if self.dims == 2:
            return tokens.merge(*windows(tokens.of_first(context.grid), stride, tokens.valid))
        N = tokens.x.shape[1]
        into = torch.arange(N, device=stride.device) // stride
        return tokens.merge(into.expand(tokens.valid.shape), -(-N // int(stride.min())))

    def _strides(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, 1) the stride of each image: drawn in training, where there are some to draw from."""
        stride = torch.full((len(tokens.x), 1), self.stride)
        if self.training and self.sampled:
            drawn = [torch.randint(len(self.sampled), (), generator=g) for g in context.generator]
            stride = torch.tensor(self.sampled)[torch.stack(drawn)][:, None]
        return stride

    def left(self, count: int, grid: Tensor) -> int | None:
        """One for each run, or each window of the grid."""
        runs = -(-count // self.stride)
        return runs if self.dims == 1 else windows_of(grid, self.stride, count)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        sampled = None if self.sampled is None else [*self.sampled]
        own = {"stride": self.stride, "layer": self.site.layer, "dims": self.dims}
        return {**own, "sampled": sampled}
