"""The sizes of a model that a compressor's weights or layers depend on, read from its config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made")

# name → whose config says it, and under which names (the first that is there).
SIZES = {
    "width": ("language model", ("hidden_size",)),
    "layers": ("language model", ("num_hidden_layers",)),
    "tower_width": ("vision tower", ("embed_dim", "hidden_size")),
    "tower_layers": ("vision tower", ("num_hidden_layers", "depth")),
}


def sized(make: Callable[..., Made], model: Any, **arguments: Any) -> Made:
    """`make(**arguments)`, with those sizes of the model that it asks for by name and is not given.

    width         of the language model's hidden states, and so of the projector's output
    layers        decoder layers of the language model
    tower_width   of one hidden state of the vision tower
    tower_layers  blocks of the vision tower

    make: an entry of METHODS, a compressor's class, any callable. model: a model or its config.
    Raises TypeError for what has no config, ValueError where the config does not say a size.
    """
    asked = [n for n in SIZES if n in inspect.signature(make).parameters and n not in arguments]
    config = getattr(model, "config", model)
    return make(**{name: _size(config, name) for name in asked}, **arguments)


def scaled(layer: int, layers: int, of: int = 32) -> int:
    """A decoder layer of a model with `of` layers, at the same depth of one with `layers`.

    Never layer 0, which stands outside the language model, and never behind the last layer.
    Raises ValueError for a model without a layer 1.
    """
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 2:
        raise ValueError(f"layers={layers!r}: want the number of decoder layers, an int >= 2")
    return min(layers - 1, max(1, (2 * layer * layers + of) // (2 * of)))


def _size(config: Any, name: str) -> int:
    if not hasattr(config, "get_text_config"):
        raise TypeError(f"{name} comes from a model or its config, got a {type(config).__name__}")
    owner, keys = SIZES[name]
    own = config.get_text_config() if owner == "language model" else config
    own = getattr(own, "vision_config", None) if owner == "vision tower" else own
    found = next((v for key in keys if isinstance(v := getattr(own, key, None), int)), None)
    if found is None:
        raise ValueError(
            f"{type(config).__name__} does not say {' or '.join(keys)} of a {owner}: give {name}=…"
        )
    return found
