"""Depthwise convolution: average pooling that may learn to be something better."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foveate.compressor import Compressor, Context, language
from foveate.ops import Keep, stride_of, whole
from foveate.tokens import VisualTokens


class DepthwiseConv(Compressor):
    """Pool by a learned depthwise convolution. Chen et al. 2024, arXiv:2406.20092.

    A baseline of the paper on LLaVolta: out = mean(run) + tanh(gate) · conv(run), over runs of `stride`
    tokens in reading order, with one kernel of that length for each of `width` channels. The gate starts
    at zero: untrained, this is `Pool`, and the kernels learn from the second step on. A last run that
    is shorter is padded with zeros for the convolution. A pooled token sits at the floor of the mean
    position of its members. ValueError if width or stride < 1, or for tokens of another width.

    Differs from the paper: what it leaves open, ours: one gate for all channels, kernels with a bias,
    PyTorch's own first kernels. With stride 1 there is nothing to pool, and no weights.
    """

    selects = True

    def __init__(self, width: int, stride: int = 8, layer: int = 2):
        super().__init__()
        self.width, self.stride = whole("width", width), whole("stride", stride)
        self.site = language(layer)
        if stride > 1:
            self.conv = nn.Conv1d(width, width, stride, stride=stride, groups=width)
            self.gate = nn.Parameter(torch.zeros(1))

    @classmethod
    def keeping(cls, keep: Keep = 0.125, width: int = 4096, layer: int = 2) -> DepthwiseConv:
        """The convolution that keeps about this share, 1/stride. Raises ValueError for any other.

        width: LLaVA-1.5-7B's, unless told; `foveate.sized` takes that of a model.
        """
        return cls(width, stride_of(keep), layer)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """One token for each run. tokens.x (B, N, D)."""
        B, N, D = tokens.x.shape
        if self.width != D:
            raise ValueError(
                f"tokens of width {D} for a convolution of width {self.width}: "
                "DepthwiseConv.for_model(model) takes the model's"
            )
        if self.stride == 1:
            return tokens
        runs = -(-N // self.stride)
        into = torch.arange(N, device=tokens.x.device).expand(B, N) // self.stride
        pooled = tokens.merge(into, runs)
        x = tokens.x.masked_fill(~tokens.valid[..., None], 0)
        x = nn.functional.pad(x, (0, 0, 0, runs * self.stride - N))
        learned = self.conv(x.mT).mT[:, : pooled.x.shape[1]] * self.gate.tanh()
        return pooled.carry((pooled.x + learned).masked_fill(~pooled.valid[..., None], 0))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"width": self.width, "stride": self.stride, "layer": self.site.layer}
