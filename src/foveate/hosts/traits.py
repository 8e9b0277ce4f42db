"""What differs between model families, found by attribute, in this one place."""

from __future__ import annotations

from torch import Tensor, nn


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


def tower_of(base: nn.Module) -> nn.Module:
    """The vision tower."""
    for name in ("vision_tower", "vision_model", "visual"):
        if (tower := getattr(base, name, None)) is not None:
            return tower
    raise TypeError(f"{type(base).__name__} has no vision tower that foveate knows")


def tower_blocks(base: nn.Module) -> nn.ModuleList:
    """The blocks of the vision tower, in order."""
    tower = tower_of(base)
    tower = getattr(tower, "vision_model", tower)
    for owner in (getattr(tower, "encoder", None), getattr(tower, "transformer", None), tower):
        for name in ("layers", "layer", "blocks"):
            if isinstance(blocks := getattr(owner, name, None), nn.ModuleList):
                return blocks
    raise TypeError(f"the vision tower {type(tower).__name__} has no blocks that foveate knows")


def connector_of(base: nn.Module) -> nn.Module:
    """The projector from the tower's width to the language model's, token by token.

    Raises NotImplementedError where tokens do not pass it one by one.
    """
    connector = getattr(base, "multi_modal_projector", None)
    if connector is None:
        raise NotImplementedError(
            f"{type(base).__name__} has no token-by-token projector: compress at language 0 instead"
        )
    return connector


def placeholder_id(base: nn.Module) -> int:
    """The id that stands for one visual token in `input_ids`."""
    return base.config.image_token_id


def padding_id(base: nn.Module) -> int:
    """An id that may stand in padding columns."""
    text = base.config.get_text_config()
    return text.pad_token_id if text.pad_token_id in range(text.vocab_size) else 0


def has_class_token(base: nn.Module) -> bool:
    """Whether the tower prepends a class token to its patches."""
    tower = tower_of(base)
    embeddings = getattr(getattr(tower, "vision_model", tower), "embeddings", None)
    return hasattr(embeddings, "class_embedding") or hasattr(embeddings, "cls_token")


def selected_layer(base: nn.Module) -> int:
    """Index into the tower's hidden states of the (deepest) selected feature, from 0."""
    layer = getattr(base.config, "vision_feature_layer", -1)
    depth = len(tower_blocks(base))
    layers = [layer] if isinstance(layer, int) else list(layer)
    return max(i if i >= 0 else depth + 1 + i for i in layers)


def selected_block(base: nn.Module) -> nn.Module:
    """The block that makes the (deepest) selected feature."""
    return tower_blocks(base)[max(selected_layer(base) - 1, 0)]


def without_class(base: nn.Module, x: Tensor) -> Tensor:
    """Tower states without the class token. x (images, [1+]P, …)."""
    drops = getattr(base.config, "vision_feature_select_strategy", "full") == "default"
    return x[:, 1:] if drops else x


def grid_of(base: nn.Module, patches: int) -> tuple[int, int] | None:
    """Rows and columns of an image's patches; None if they are no whole grid."""
    side = round(patches**0.5)
    return (side, side) if side * side == patches else None


def attention_of(layer: nn.Module) -> nn.Module:
    """The attention module of a block or decoder layer."""
    for name in ("self_attn", "attn", "attention"):
        if (attention := getattr(layer, name, None)) is not None:
            return attention
    raise TypeError(f"{type(layer).__name__} has no attention module that foveate knows")
