"""Depthwise convolution: average pooling over the grid that may learn to be something better."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, stride_of, whole, windowed, windows_of
from foveate.core.tokens import VisualTokens


class DepthwiseConv(Compressor):
    """Pool by a learned depthwise convolution. Chen et al. 2024, arXiv:2406.20092.

    A baseline of the paper on LLaVolta: out = mean(window) + tanh(gate) · GELU(LN(conv(window))), over
    windows of `kernel` × `kernel` patches, with one filter of that size for each of `width` channels,
    without bias. The gate starts at zero: untrained, this is `Pool(kernel, dims=2)`, and the filters learn
    from the second step on. With kernel 1 there is nothing to pool, and no weights. ValueError if width or
    kernel < 1, or for tokens of another width.

    Differs from the authors' code: windows over the edge of a grid stay, where theirs leave them out; the
    mean there is of the patches that are there, and the nearest of them stands in for each that is missing,
    as in `SpatialFusion`. A pooled token sits at the floor of the mean position of its patches, as every
    merged token here; a helper that their released code does not call has the mean row and column.
    """

    selects = True
    needs = frozenset({"grid"})

    def __init__(self, width: int, kernel: int = 2, layer: int = 2):
        super().__init__()
        self.width, self.kernel = whole("width", width), whole("kernel", kernel)
        self.site = language(layer)
        if kernel > 1:
            self.conv = nn.Conv2d(width, width, kernel, stride=kernel, groups=width, bias=False)
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.gate = nn.Parameter(torch.zeros(1))

    @classmethod
    def keeping(cls, keep: Keep = 0.25, width: int = 4096, layer: int = 2) -> DepthwiseConv:
        """The convolution that keeps about this share, 1/kernel². Raises ValueError for any other.

        width: LLaVA-1.5-7B's, unless told; `foveate.sized` takes that of a model.
        """
        return cls(width, stride_of(keep, dims=2), layer)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """One token for each window. tokens.x (B, N, D) → (B, M, D)."""
        if self.width != tokens.x.shape[-1]:
            raise ValueError(
                f"tokens of width {tokens.x.shape[-1]} for a convolution of width {self.width}: "
                "DepthwiseConv.for_model(model) takes the model's"
            )
        if self.kernel == 1:
            return tokens
        pooled, cells = windowed(tokens, context.grid, self.kernel)
        maps = rearrange(cells, "b m (h w) d -> (b m) d h w", h=self.kernel)
        learned = rearrange(self.conv(maps), "(b m) d 1 1 -> b m d", b=len(cells))
        learned = nn.functional.gelu(self.norm(learned)) * self.gate.tanh()
        return pooled.carry((pooled.x + learned).masked_fill(~pooled.valid[..., None], 0))

    def left(self, count: int, grid: Tensor) -> int | None:
        """One for each window."""
        return windows_of(grid, self.kernel, count)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"width": self.width, "kernel": self.kernel, "layer": self.site.layer}
