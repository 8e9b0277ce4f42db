"""foveate: fewer visual tokens for large multimodal models, on unmodified Transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foveate.draw import draw  # eager, and imports nothing: else the module would hide the function

if TYPE_CHECKING:
    from foveate.compressor import Chain, Compressor, Context, Site, Stages, Tower
    from foveate.convert import convert_llava_stf
    from foveate.hosts.asked import instruction
    from foveate.hosts.attach import (
        is_compressed,
        last_counts,
        restore,
        set_progress,
        trace,
        warm_start,
    )
    from foveate.hosts.protocol import as_published, protocol
    from foveate.hosts.support import Support
    from foveate.hosts.trace import Step, Trace
    from foveate.loading import compress, compressed, from_pretrained, support
    from foveate.methods import (
        METHODS,
        DepthwiseConv,
        DivPrune,
        FastV,
        FlashGlobalFusion,
        Identity,
        KMeans,
        LLaVASTF,
        MultiBlockFusion,
        Pool,
        Random,
        RegionSampler,
        SpatialFusion,
        Stride,
        TextGuided,
        VCCAttention,
        VisionZip,
        VisualNativeSelection,
        focusllava,
        layerwise,
        llava_stf,
        llavolta,
        meteor,
    )
    from foveate.sizes import sized
    from foveate.tokens import VisualTokens
    from foveate.train.progress import ProgressCallback

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use: torch and transformers take seconds, help none.
_HOMES = {
    "foveate.compressor": ("Chain", "Compressor", "Context", "Site", "Stages", "Tower"),
    "foveate.convert": ("convert_llava_stf",),
    "foveate.hosts.asked": ("instruction",),
    "foveate.hosts.attach": (
        "is_compressed",
        "last_counts",
        "restore",
        "set_progress",
        "trace",
        "warm_start",
    ),
    "foveate.hosts.protocol": ("as_published", "protocol"),
    "foveate.hosts.trace": ("Step", "Trace"),
    "foveate.hosts.support": ("Support",),
    "foveate.loading": ("compress", "compressed", "from_pretrained", "support"),
    "foveate.methods": (
        "METHODS",
        "DepthwiseConv",
        "DivPrune",
        "FastV",
        "FlashGlobalFusion",
        "Identity",
        "KMeans",
        "LLaVASTF",
        "MultiBlockFusion",
        "Pool",
        "Random",
        "RegionSampler",
        "SpatialFusion",
        "Stride",
        "TextGuided",
        "VCCAttention",
        "VisionZip",
        "VisualNativeSelection",
        "focusllava",
        "layerwise",
        "llava_stf",
        "llavolta",
        "meteor",
    ),
    "foveate.sizes": ("sized",),
    "foveate.tokens": ("VisualTokens",),
    "foveate.train.progress": ("ProgressCallback",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METHODS",
    "Chain",
    "Compressor",
    "Context",
    "DepthwiseConv",
    "DivPrune",
    "FastV",
    "FlashGlobalFusion",
    "Identity",
    "KMeans",
    "LLaVASTF",
    "MultiBlockFusion",
    "Pool",
    "ProgressCallback",
    "Random",
    "RegionSampler",
    "Site",
    "SpatialFusion",
    "Stages",
    "Step",
    "Stride",
    "Support",
    "TextGuided",
    "Tower",
    "Trace",
    "VCCAttention",
    "VisionZip",
    "VisualNativeSelection",
    "VisualTokens",
    "as_published",
    "compress",
    "compressed",
    "convert_llava_stf",
    "draw",
    "focusllava",
    "from_pretrained",
    "instruction",
    "is_compressed",
    "last_counts",
    "layerwise",
    "llava_stf",
    "llavolta",
    "meteor",
    "protocol",
    "restore",
    "set_progress",
    "sized",
    "support",
    "trace",
    "warm_start",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
