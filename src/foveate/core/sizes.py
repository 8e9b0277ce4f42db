"""The sizes of a model that a compressor's weights or layers depend on, read from its config."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from foveate.core.ops import whole

Made = TypeVar("Made")


def sized(make: Callable[..., Made], model: Any, **arguments: Any) -> Made:
    """`make(**arguments)`, with those sizes of the model that it asks for by name and is not given.

    width          of the language model's hidden states, and so of the projector's output
    layers         decoder layers of the language model
    tower_width    of one hidden state of the vision tower
    tower_layers   blocks of the vision tower
    feature_width  of what the projector reads: hidden states may be joined, windows folded into channels
    feature_layer  the hidden state of the tower that is the feature, the deepest where several are

    make: an entry of METHODS, a compressor's class, any callable. model: a model or its config.
    Raises TypeError for what has no config and for arguments that `make` does not have, ValueError where
    the config does not say a size.
    """
    known = inspect.signature(make).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    if wrong := [name for name in arguments if name not in known and not open_ended]:
        near = difflib.get_close_matches(wrong[0], known, n=1)
        raise TypeError(
            f"{make.__qualname__} has no argument {wrong[0]!r}: "
            + (f"nearest: {near[0]}; " if near else "")
            + f"there are {', '.join(known)}"
        )
    asked = [n for n in SIZES if n in inspect.signature(make).parameters and n not in arguments]
    config = getattr(model, "config", model)
    if asked and not hasattr(config, "get_text_config"):
        raise TypeError(
            f"{asked[0]} comes from a model or its config, got a {type(config).__name__}"
        )
    return make(**{name: _size(config, name) for name in asked}, **arguments)


def size_of(config: Any, name: str) -> int | None:
    """A size by its name, as in `sized`; None where the config does not say it."""
    try:
        return SIZES[name](config)
    except ValueError:
        return None


def scaled(layer: int, layers: int, of: int = 32) -> int:
    """A decoder layer of a model with `of` layers, at the same depth of one with `layers`.

    Never layer 0, which stands outside the language model, and never behind the last layer.
    Raises ValueError for a model without a layer 1.
    """
    layers = whole("layers", layers, least=2)
    return min(layers - 1, max(1, (2 * layer * layers + of) // (2 * of)))


def scaled_block(block: int, blocks: int, of: int = 24) -> int:
    """A block of a vision tower with `of` blocks, at the same depth of one with `blocks`."""
    return min(whole("tower_layers", blocks) - 1, (2 * block * blocks + of) // (2 * of))


def _size(config: Any, name: str) -> int:
    try:
        return SIZES[name](config)
    except ValueError as missing:
        raise ValueError(
            f"{type(config).__name__} does not say {missing}: give {name}=…"
        ) from missing


def _said(config: Any, owner: str, *keys: str) -> int:
    """The first of these keys that a part's config has. Raises ValueError with what is missing."""
    own = (
        config.get_text_config()
        if owner == "language model"
        else getattr(config, "vision_config", None)
    )
    found = next((v for key in keys if isinstance(v := getattr(own, key, None), int)), None)
    if found is None:
        raise ValueError(f"{' or '.join(keys)} of a {owner}")
    return found


def _width(config: Any) -> int:
    return _said(config, "language model", "hidden_size")


def _layers(config: Any) -> int:
    return _said(config, "language model", "num_hidden_layers")


def _tower_width(config: Any) -> int:
    return _said(config, "vision tower", "embed_dim", "hidden_size")


def _tower_layers(config: Any) -> int:
    return _said(config, "vision tower", "num_hidden_layers", "depth")


def _feature_width(config: Any) -> int:
    """Joined hidden states lie side by side; so do the tokens of a window that is shuffled into channels."""
    joined = getattr(config, "vision_feature_layer", None)
    width = _tower_width(config) * (len(joined) if isinstance(joined, list | tuple) else 1)
    ratio = getattr(config, "downsample_ratio", None)  # of a side; scale_factor is its inverse
    side = round(1 / ratio) if isinstance(ratio, float) else getattr(config, "scale_factor", 1)
    return width * side * side


def _feature_layer(config: Any) -> int:
    layer, depth = getattr(config, "vision_feature_layer", -1), _tower_layers(config)
    joined = [layer] if isinstance(layer, int) else list(layer)
    return max(i if i >= 0 else depth + 1 + i for i in joined)


SIZES: dict[str, Callable[[Any], int]] = {
    "width": _width,
    "layers": _layers,
    "tower_width": _tower_width,
    "tower_layers": _tower_layers,
    "feature_width": _feature_width,
    "feature_layer": _feature_layer,
}
