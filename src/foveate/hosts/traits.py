"""What differs between model families, found by attribute, in this one place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.sizes import size_of
from foveate.hosts import connectors

MODALITIES = ("image", "video")
TOWERS = ("vision_tower", "image_tower", "vision_model", "visual")
SELECTING = ("vision_feature_layer", "vision_feature_select_strategy")
CONNECTORS = ("multi_modal_projector", "connector")


def base_of(model: nn.Module) -> nn.Module:
    """The model without its head: where image features meet the language model.

    Raises TypeError if the model has no image features or no decoder layers.
    """
    base = getattr(unwrapped(model), "model", None)
    if base is None or not hasattr(base, "get_image_features") or decoder_of(base) is None:
        raise TypeError(
            f"{type(model).__name__} is no model foveate knows: want an image-text-to-text model "
            "of transformers, such as LlavaForConditionalGeneration"
        )
    return base


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside PEFT's, DDP's and torch.compile's wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if inner is None and hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def decoder_of(base: nn.Module) -> nn.Module | None:
    """The language model: the module with `layers` and `rotary_emb`."""
    for name in ("language_model", "text_model"):
        decoder = getattr(base, name, None)
        if decoder is not None and hasattr(decoder, "layers"):
            return decoder
    return None


def modalities(base: nn.Module) -> tuple[str, ...]:
    """What a model can see, of image and video: it has a function and a placeholder for it."""
    return tuple(
        m
        for m in MODALITIES
        if hasattr(base, f"get_{m}_features")
        and getattr(base.config, f"{m}_token_id", None) is not None
    )


def placeholder_id(base: nn.Module, modality: str = "image") -> int:
    """The id that stands for one visual token in `input_ids`."""
    return getattr(base.config, f"{modality}_token_id")


def is_visual(base: nn.Module, ids: Tensor) -> Tensor:
    """True at placeholders of any modality. ids (…) → (…) bool."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for modality in modalities(base):
        found |= ids == placeholder_id(base, modality)
    return found


def padding_id(base: nn.Module) -> int:
    """An id that may stand in padding columns."""
    text = base.config.get_text_config()
    return text.pad_token_id if text.pad_token_id in range(text.vocab_size) else 0


def first_position(base: nn.Module) -> int:
    """The position id a model gives the first column where nobody says; PaliGemma counts from 1."""
    return 1 if "paligemma" in base.config.model_type else 0


# The vision tower


def towers_of(base: nn.Module) -> list[nn.Module]:
    """The vision towers: one, or one for images and one for video."""
    names = (*TOWERS, "video_tower")
    found = [t for name in names if (t := getattr(base, name, None)) is not None]
    if not found:
        raise TypeError(f"{type(base).__name__} has no vision tower that foveate knows")
    return found


def tower_of(base: nn.Module) -> nn.Module:
    """The vision tower, that of images where there are two."""
    return towers_of(base)[0]


def tower_blocks(base: nn.Module, tower: nn.Module | None = None) -> nn.ModuleList:
    """The blocks of a vision tower, in order."""
    tower = tower_of(base) if tower is None else tower
    tower = getattr(tower, "vision_model", tower)
    for owner in (getattr(tower, "encoder", None), getattr(tower, "transformer", None), tower):
        for name in ("layers", "layer", "blocks"):
            if isinstance(blocks := getattr(owner, name, None), nn.ModuleList):
                return blocks
    raise TypeError(f"the vision tower {type(tower).__name__} has no blocks that foveate knows")


def has_class_token(base: nn.Module, tower: nn.Module | None = None) -> bool:
    """Whether a tower prepends a class token to its patches."""
    tower = tower_of(base) if tower is None else tower
    embeddings = getattr(getattr(tower, "vision_model", tower), "embeddings", None)
    tokens = (getattr(embeddings, name, None) for name in ("class_embedding", "cls_token"))
    return any(token is not None for token in tokens)


def selection(base: nn.Module) -> dict[str, Any]:
    """What of the tower the features are, as the config says it now; None where it does not."""
    return {name: copy.copy(getattr(base.config, name, None)) for name in SELECTING}


def selected_layer(base: nn.Module) -> int:
    """Index into the tower's hidden states of the (deepest) selected feature, from 0."""
    layer = getattr(base.config, "vision_feature_layer", -1)
    depth = len(tower_blocks(base))
    layers = [layer] if isinstance(layer, int) else list(layer)
    return max(i if i >= 0 else depth + 1 + i for i in layers)


def block_of(base: nn.Module, index: int | None, tower: nn.Module | None = None) -> nn.Module:
    """A block of a tower; without an index the one that makes the (deepest) selected feature."""
    index = max(selected_layer(base) - 1, 0) if index is None else index
    return tower_blocks(base, tower)[index]


def attention_of(layer: nn.Module) -> nn.Module:
    """The attention module of a block or decoder layer."""
    for name in ("self_attn", "attn", "attention"):
        if (attention := getattr(layer, name, None)) is not None:
            return attention
    raise TypeError(f"{type(layer).__name__} has no attention module that foveate knows")


def norm_of(layer: nn.Module) -> nn.Module:
    """The norm that a decoder layer's attention reads. Raises NotImplementedError where none is known."""
    if isinstance(norm := getattr(layer, "input_layernorm", None), nn.Module):
        return norm
    raise NotImplementedError(
        f"{type(layer).__name__} has no input_layernorm, so its attention cannot be asked before it runs: "
        "methods that go by the layer before, such as FastV, work"
    )


def last_norm(decoder: nn.Module) -> nn.Module:
    """The norm behind the last decoder layer. Raises NotImplementedError where none is known."""
    if isinstance(norm := getattr(decoder, "norm", None), nn.Module):
        return norm
    raise NotImplementedError(
        f"{type(decoder).__name__} has no norm behind its layers that foveate knows: methods that read no "
        "normed tokens, such as FastV, work"
    )


# From the tower to the language model


def merger_of(base: nn.Module) -> nn.Module | None:
    """A connector inside the tower, as Qwen's: after it, patches return from windows to rows."""
    return getattr(tower_of(base), "merger", None)


def connector_of(base: nn.Module) -> nn.Module | None:
    """What stands between tower and language model, projector and all; None inside the tower."""
    found = (getattr(base, name, None) for name in CONNECTORS)
    return next((c for c in found if c is not None), None)


def projector_of(base: nn.Module) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The projector that maps tokens one by one, and what the model does to features right before it.

    The latter takes what the model gives its connector. The projector is a module whose linear layers
    are found among its modules. Raises NotImplementedError, with the way out, where tokens cannot pass
    it one by one.
    """
    connector = connector_of(base)
    if connector is None:
        inside = "the vision tower itself merges windows of tokens and projects them"
        mixes = "it has no connector that foveate knows" if merger_of(base) is None else inside
    else:
        mixes = connectors.mixes(connector, size_of(base.config, "feature_width"))
    if mixes is None:
        return connectors.apart(connector)
    raise NotImplementedError(
        f"{type(base).__name__}: {mixes}, so nothing can stand before the projector or in its place; "
        "methods that act behind it, at language 0, work"
    )


def refuse_windows(base: nn.Module) -> None:
    """Raise NotImplementedError where a visual token is made of several tokens of the vision tower."""
    connector = connector_of(base)
    if connectors.apart(connector)[0] is not connector or hasattr(base, "pixel_shuffle"):
        raise NotImplementedError(
            f"{type(base).__name__} makes a visual token of a window of the tower's, so nothing can be "
            "dropped or merged inside of the tower; methods that act behind the projector (language 0) work"
        )


def refuse_unordered(base: nn.Module) -> None:
    """Raise NotImplementedError where nothing says which of the tower's tokens a visual token is made of."""
    connector = connector_of(base)
    without = merger_of(base) is None if connector is None else connectors.resamples(connector)
    if without:
        raise NotImplementedError(
            f"{type(base).__name__}: nothing says which tokens of the vision tower a visual token is made of"
        )


def merge_size(base: nn.Module) -> int:
    """How many tokens of the tower, along each side, become one visual token where sizes are given."""
    own = getattr(base.config, "spatial_merge_size", None)
    return own or getattr(base.config.vision_config, "spatial_merge_size", 1)


def patch_size(base: nn.Module) -> int:
    """Side of the tower's patches in pixels."""
    return _side(base.config.vision_config.patch_size)


def tokens_of_view(base: nn.Module) -> int:
    """Patches of one full view of the tower, for towers of one image size."""
    return (_side(base.config.vision_config.image_size) // patch_size(base)) ** 2


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def tokens_of_tile(base: nn.Module, pixels: Tensor) -> int | None:
    """Visual tokens of one tile where a model hands back all tiles of a prompt at once; else None."""
    connector = connector_of(base)
    if not hasattr(connector, "pixel_shuffle") or not hasattr(connector, "scale_factor"):
        return None
    height, width = pixels.shape[-2:]
    side = patch_size(base) * connector.scale_factor
    return (height // side) * (width // side)


def rows_are_runs(base: nn.Module) -> bool:
    """Whether feature units are not images but their tiles, or all that a prompt holds.

    One image then is what its placeholders say: a run of them, or several with tile markers between.
    """
    return hasattr(base, "pixel_shuffle") or hasattr(connector_of(base), "pixel_shuffle")


def tiles_are_marked(base: nn.Module) -> bool:
    """Whether every tile is a run of its own, behind a marker that says which."""
    return hasattr(connector_of(base), "pixel_shuffle")


def closes_rows(config: Any) -> bool:
    """Whether the model puts newlines behind the rows of an image, by its config."""
    return hasattr(config, "image_grid_pinpoints")


def whole_view(base: nn.Module) -> int | None:
    """Which of an image's views, where it has several, shows all of it: the first, or the last as -1."""
    if hasattr(base, "image_newline"):
        return 0
    return -1 if rows_are_runs(base) else None


def deepstack(output: Any) -> list[Any] | None:
    """Features that the model adds to its residual stream after the first decoder layers, by layer."""
    return getattr(output, "deepstack_features", None)


def deepened(base: nn.Module) -> int:
    """How many of the first decoder layers such features are added behind."""
    chosen = getattr(base.config.vision_config, "deepstack_visual_indexes", None)
    return len(set(chosen) & set(range(len(tower_blocks(base))))) if chosen else 0
