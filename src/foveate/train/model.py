"""The model of a recipe: loaded or assembled, with its method attached, fresh or from a checkpoint."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.core.compressor import Compressor
from foveate.core.sizes import sized
from foveate.embedded import MODELS
from foveate.hosts import assemble, reading, saving, whole
from foveate.hosts.attach import compress
from foveate.registry.methods import factory
from foveate.train.recipe import Recipe


def load(recipe: Recipe, place: str | Path | None = None) -> tuple[nn.Module, Any]:
    """The compressed model and its processor; a place to load from stands in for the recipe's model.

    Weights of the compressor come along where what is loaded was saved with the same kind of compressor,
    else they are new. Raises ValueError for unknown methods, Unreadable for files that are broken or do not
    fit together, and as the method and compress do.
    """
    if recipe.vision is not None and place is None:
        model, processor = assemble.assemble(
            recipe.vision,
            recipe.model,
            dtype=getattr(torch, recipe.dtype),
            attn_implementation=recipe.attention,
        )
        method = build(recipe, model.config)
    else:
        path = where(recipe, place)
        config = reading.config(path)
        method = build(recipe, config)
        model = saving.load(
            path, method, dtype=getattr(torch, recipe.dtype), attn_implementation=recipe.attention
        )
        processor = reading.processor(path)
        if recipe.template == "chat":  # else its template is never asked
            whole.check_asked(path, model, processor)
    if recipe.square:
        assemble.pad_to_square(processor)
    attention = "proportional" if recipe.proportional else "plain"
    return compress(
        model, method, recipe.positions, dropped=recipe.dropped, attention=attention
    ), processor


def where(recipe: Recipe, place: str | Path | None) -> str:
    """Where a recipe's model lies: at this place, in the package, or where its name says."""
    return str(place or MODELS.get(recipe.model, recipe.model))


def refuse_trained(recipe: Recipe, place: str | Path | None = None) -> None:
    """Raise ValueError if a warm start would begin anew what the recipe's model was saved with."""
    path = where(recipe, place)
    if recipe.vision is None and saving.has_weights(path):
        raise ValueError(
            f"warm_start=True, and {path} has a compressor with weights that were trained: leave it out"
        )


def build(recipe: Recipe, config: Any) -> Compressor:
    """The compressor of a recipe, with the sizes it asks for. Raises ValueError for unknown names."""
    if isinstance(recipe.method, Compressor):
        return recipe.method
    make = factory(recipe.method)
    known = inspect.signature(make).parameters
    if wrong := [name for name in recipe.arguments if name not in known]:
        raise ValueError(f"arguments of {recipe.method}: {wrong[0]!r}: {_nearest(wrong[0], known)}")
    return sized(make, config, **recipe.arguments)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (f"nearest: {close[0]}; " if close else "") + f"there are {', '.join(names)}"
