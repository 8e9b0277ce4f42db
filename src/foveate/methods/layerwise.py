"""Layer-wise pooling: not all at once, but in three steps down the language model."""

from __future__ import annotations

from foveate.core.composed import Chain
from foveate.core.ops import Keep, stride_of
from foveate.core.sizes import scaled
from foveate.core.spec import spoken
from foveate.methods.pool import Pool

DEPTHS = (4, 12, 24)  # of 32 layers


@spoken
def layerwise(keep: Keep = 0.125, layers: int = 32) -> Chain:
    """Pool by 2 at three depths, layers 4, 12, 24 of 32. Chen et al. 2024, arXiv:2406.20092.

    A baseline of the paper on LLaVolta.

    keep: what the last layers see: 1/8 with three strides of 2; 1/s³ with strides of s (ours).
    layers: decoder layers of the model (`foveate.sized` takes them from it); the three depths are scaled
    to them. Where two fall together, as in models of three layers or less, they pool one after the other.
    Raises ValueError for other shares, numbers of tokens, and models of less than two layers.
    """
    stride = stride_of(keep, dims=len(DEPTHS))
    return Chain(*(Pool(stride, layer=scaled(depth, layers)) for depth in DEPTHS))
