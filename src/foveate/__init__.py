"""foveate: fewer visual tokens for large multimodal models, on unmodified Transformers."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from foveate.draw import draw  # eager, and imports nothing: else the module would hide the function

if TYPE_CHECKING:
    from foveate.convert import convert_llava_stf
    from foveate.core.composed import Chain, Stages
    from foveate.core.compressor import Compressor, Context, Site, Tower
    from foveate.core.sizes import sized
    from foveate.core.tokens import VisualTokens
    from foveate.hosts.aside import Aside, keep_aside
    from foveate.hosts.asked import instruction
    from foveate.hosts.attach import (
        is_compressed,
        last_counts,
        restore,
        set_progress,
        trace,
        warm_start,
    )
    from foveate.hosts.learnt import head_on_answers
    from foveate.hosts.protocol import as_published, protocol
    from foveate.hosts.support import Support
    from foveate.hosts.trace import Step, Trace
    from foveate.methods import (
        DART,
        EVS,
        METHODS,
        SCOPE,
        CDPruner,
        Crop,
        DepthwiseConv,
        DivPrune,
        FastV,
        FlashGlobalFusion,
        Fovea,
        GlobalLocalScan,
        HiPrune,
        HiRED,
        HoloV,
        Identity,
        KMeans,
        LLaVASTF,
        MiddleCut,
        MultiBlockFusion,
        Pool,
        PruMerge,
        PyramidDrop,
        Random,
        RegionSampler,
        SparseVLM,
        SpatialFusion,
        Stride,
        TextGuided,
        ToMe,
        V2Drop,
        VCCAttention,
        VisionZip,
        VisPruner,
        VisualNativeSelection,
        fastervlm,
        focusllava,
        layerwise,
        llava_stf,
        llavolta,
        meteor,
        prumerge_plus,
        pyramiddrop,
        sparsevlm,
        tome,
        v2drop,
        vscan,
    )
    from foveate.registry.clip import CLIPCDPruner
    from foveate.registry.loading import compress, compressed, from_pretrained, support
    from foveate.train.progress import ProgressCallback

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use: torch and transformers take seconds, help none.
_HOMES = {
    "foveate.core.composed": ("Chain", "Stages"),
    "foveate.core.compressor": ("Compressor", "Context", "Site", "Tower"),
    "foveate.convert": ("convert_llava_stf",),
    "foveate.hosts.asked": ("instruction",),
    "foveate.hosts.aside": ("Aside", "keep_aside"),
    "foveate.hosts.attach": (
        "is_compressed",
        "last_counts",
        "restore",
        "set_progress",
        "trace",
        "warm_start",
    ),
    "foveate.hosts.learnt": ("head_on_answers",),
    "foveate.hosts.protocol": ("as_published", "protocol"),
    "foveate.hosts.trace": ("Step", "Trace"),
    "foveate.hosts.support": ("Support",),
    "foveate.registry.clip": ("CLIPCDPruner",),
    "foveate.registry.loading": ("compress", "compressed", "from_pretrained", "support"),
    "foveate.methods": (
        "DART",
        "EVS",
        "METHODS",
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
        "MultiBlockFusion",
        "MiddleCut",
        "Pool",
        "PruMerge",
        "SCOPE",
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
        "vscan",
        "pyramiddrop",
        "sparsevlm",
        "tome",
        "v2drop",
    ),
    "foveate.core.sizes": ("sized",),
    "foveate.core.tokens": ("VisualTokens",),
    "foveate.train.progress": ("ProgressCallback",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
# Modules that users import from the package itself, whatever room they stand in.
_ROOMS = {"foveate.ops": "foveate.core.ops", "foveate.scan": "foveate.statespace.scan"}

__all__ = ["draw", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Rooms(MetaPathFinder, Loader):
    """Finds the modules of _ROOMS by their public names: the very modules, and no copies."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in _ROOMS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        own = import_module(_ROOMS[spec.name])
        spec.loader_state = own.__spec__
        return own

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state  # which importing it just replaced


sys.meta_path.append(_Rooms())
