"""The methods: one paper, one file. A method knows tensors and no model.

To add one: a file here named after its slug, one line in METHODS; the contract tests do the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from foveate.core.compressor import Compressor
from foveate.methods.cdpruner import CDPruner
from foveate.methods.crop import Crop
from foveate.methods.dart import DART
from foveate.methods.depthwise import DepthwiseConv
from foveate.methods.divprune import DivPrune
from foveate.methods.evs import EVS
from foveate.methods.fastervlm import fastervlm
from foveate.methods.fastv import FastV
from foveate.methods.focusllava import RegionSampler, TextGuided, focusllava
from foveate.methods.fovea import Fovea
from foveate.methods.hiprune import HiPrune
from foveate.methods.hired import HiRED
from foveate.methods.holov import HoloV
from foveate.methods.identity import Identity
from foveate.methods.kmeans import KMeans
from foveate.methods.layerwise import layerwise
from foveate.methods.llava_stf import LLaVASTF, MultiBlockFusion, SpatialFusion, llava_stf
from foveate.methods.llavolta import llavolta
from foveate.methods.meteor import FlashGlobalFusion, VisualNativeSelection, meteor
from foveate.methods.pool import Pool
from foveate.methods.prumerge import PruMerge
from foveate.methods.prumerge_plus import prumerge_plus
from foveate.methods.pyramiddrop import PyramidDrop, pyramiddrop
from foveate.methods.random import Random
from foveate.methods.scope import SCOPE
from foveate.methods.sparsevlm import SparseVLM, sparsevlm
from foveate.methods.stride import Stride
from foveate.methods.tome import ToMe, tome
from foveate.methods.v2drop import V2Drop, v2drop
from foveate.methods.vccattention import VCCAttention
from foveate.methods.visionzip import VisionZip
from foveate.methods.vispruner import VisPruner
from foveate.methods.vscan import GlobalLocalScan, MiddleCut, vscan

# slug → factory: takes `keep` (see ops.check_keep) and the method's own arguments, all with defaults.
# Sizes of the model (sizes.SIZES) are LLaVA-1.5-7B's unless told; `foveate.sized` takes a model's own.
METHODS: dict[str, Callable[..., Compressor]] = {
    "identity": Identity.keeping,
    "random": Random,
    "stride": Stride,
    "pool": Pool.keeping,
    "crop": Crop,
    "fastv": FastV,
    "sparsevlm": sparsevlm,
    "pyramiddrop": pyramiddrop,
    "dart": DART,
    "v2drop": v2drop,
    "tome": tome,
    "visionzip": VisionZip,
    "fastervlm": fastervlm,
    "vispruner": VisPruner,
    "prumerge": PruMerge,
    "prumerge_plus": prumerge_plus,
    "hired": HiRED,
    "vscan": vscan,
    "hiprune": HiPrune,
    "holov": HoloV,
    "scope": SCOPE,
    "divprune": DivPrune,
    "cdpruner": CDPruner,
    "evs": EVS,
    "fovea": Fovea,
    "kmeans": KMeans,
    "vccattention": VCCAttention,
    "depthwise": DepthwiseConv.keeping,
    "layerwise": layerwise,
    "llavolta": llavolta,
    "llava_stf": llava_stf,
    "meteor": meteor,
    "focusllava": focusllava,
}

__all__ = [
    "DART",
    "EVS",
    "METHODS",
    "SCOPE",
    "CDPruner",
    "Crop",
    "DepthwiseConv",
    "DivPrune",
    "FastV",
    "FlashGlobalFusion",
    "Fovea",
    "GlobalLocalScan",
    "HiPrune",
    "HiRED",
    "HoloV",
    "Identity",
    "KMeans",
    "LLaVASTF",
    "MiddleCut",
    "MultiBlockFusion",
    "Pool",
    "PruMerge",
    "PyramidDrop",
    "Random",
    "RegionSampler",
    "SparseVLM",
    "SpatialFusion",
    "Stride",
    "TextGuided",
    "ToMe",
    "V2Drop",
    "VCCAttention",
    "VisPruner",
    "VisionZip",
    "VisualNativeSelection",
    "fastervlm",
    "focusllava",
    "layerwise",
    "llava_stf",
    "llavolta",
    "meteor",
    "prumerge_plus",
    "pyramiddrop",
    "sparsevlm",
    "tome",
    "v2drop",
    "vscan",
]
