"""foveate: fewer visual tokens for large multimodal models, on unmodified Transformers."""

from __future__ import annotations

from foveate.compressor import Chain, Compressor, Context, Site, Stages, Tower
from foveate.draw import draw
from foveate.hosts.attach import (
    compress,
    compressed,
    is_compressed,
    last_counts,
    restore,
    set_progress,
    trace,
)
from foveate.hosts.trace import Step, Trace
from foveate.loading import from_pretrained
from foveate.methods import METHODS, DivPrune, FastV, Identity, Pool, Random, Stride, VisionZip
from foveate.tokens import VisualTokens

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Chain",
    "Compressor",
    "Context",
    "DivPrune",
    "FastV",
    "Identity",
    "Pool",
    "Random",
    "Site",
    "Stages",
    "Step",
    "Stride",
    "Tower",
    "Trace",
    "VisionZip",
    "VisualTokens",
    "compress",
    "compressed",
    "draw",
    "from_pretrained",
    "is_compressed",
    "last_counts",
    "restore",
    "set_progress",
    "trace",
]
