"""Where hosts and methods meet: models back from disk with their compressor, and who works on what."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

import foveate.methods
from foveate.compressor import Compressor
from foveate.hosts import saving, traits
from foveate.hosts import support as hosts_support
from foveate.hosts.attach import compress
from foveate.hosts.support import Support
from foveate.sizes import sized

# What sets a method, or what there is of it, behind the projector.
BEHIND = {"projected": True, "only": "selection"}


def from_pretrained(path: str, method: Compressor | None = None, **kwargs: Any) -> nn.Module:
    """The model saved under a path or Hub id, with the compressor it was saved with.

    method: your own compressor, where the checkpoint's is not one of foveate's. Other keywords go to
    AutoModelForImageTextToText.from_pretrained, but for those that would read more than safetensors and
    JSON, run a checkpoint's code (trust_remote_code), or make up weights: load such a model with
    transformers and compress it.

    Raises ValueError for these keywords, if the checkpoint names no compressor, an unknown one, or lacks
    its weights, and for files that are broken, which is an OSError too.
    """
    known = {c.__name__: c for c in vars(foveate.methods).values() if _is_compressor(c)}
    model, method, positions = saving.from_pretrained(path, known, method, **kwargs)
    return compress(model, method, positions)


def support(model: nn.Module, method: Compressor | None = None) -> Support | dict[str, Support]:
    """Which methods work on a model and what is different there: by name, or for one compressor.

    Where a method works with another setting only, its notes say so. The model may be on the meta device.
    Raises TypeError for what is no multimodal model at all.
    """
    traits.base_of(model)
    if method is not None:
        return hosts_support.support(model, method)
    return {slug: _supported(model, make) for slug, make in foveate.methods.METHODS.items()}


def _supported(model: nn.Module, make: Callable[..., Compressor]) -> Support:
    try:
        found = hosts_support.support(model, sized(make, model))
    except ValueError as error:  # the model does not say a size, or no such method fits it
        return Support((), works=False, why=str(error))
    for name, value in BEHIND.items() if not found.works else ():
        if name not in inspect.signature(make).parameters:
            continue
        try:
            behind = hosts_support.support(model, sized(make, model, **{name: value}))
        except ValueError:  # a method may know the argument and not the value
            continue
        if behind.works:
            note = f"with {name}={value!r}: behind the projector"
            return replace(behind, notes=(note, *behind.notes))
    return found


def _is_compressor(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Compressor) and value is not Compressor
