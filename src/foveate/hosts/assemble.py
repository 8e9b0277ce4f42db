"""A new LLaVA from a vision tower and a language model: where pre-training begins."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
)

from foveate.hosts import reading
from foveate.hosts.protocol import CHAT, squared

IMAGE, PAD = "<image>", "<pad>"


def assemble(
    vision: str, language: str, feature_layer: int = -2, **kwargs: Any
) -> tuple[nn.Module, LlavaProcessor]:
    """A LlavaForConditionalGeneration of two checkpoints, and its processor.

    vision is a CLIP or SigLIP checkpoint, language a causal language model; both are folders or Hub ids.
    Other keywords, such as dtype and attn_implementation, go to from_pretrained of both. Features are
    hidden state `feature_layer` without the class token. The tokenizer learns an image token and, where
    it has none, a padding token; the embeddings grow to a multiple of 64.
    """
    seen = vision_config(vision)
    tower = vision_tower(vision, **kwargs)
    speaker = reading.language_model(language, **kwargs)
    processor = processor_of(vision, language, seen)
    tokenizer = processor.tokenizer
    if len(tokenizer) > speaker.get_input_embeddings().num_embeddings:
        speaker.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)

    model = skeleton(seen, speaker.config, processor, feature_layer)
    renew_projector(model, speaker.dtype)
    model.model.vision_tower = tower
    model.model.language_model, model.lm_head = speaker.model, speaker.lm_head
    model.generation_config = speaker.generation_config
    return model, processor


def vision_config(vision: str) -> PreTrainedConfig:
    """The config of a tower, also of one that was saved with a text encoder beside it."""
    seen = reading.config(vision)
    return getattr(seen, "vision_config", seen)


def vision_tower(vision: str, **kwargs: Any) -> nn.Module:
    """A tower, without the text encoder that it was saved with."""
    return reading.tower(vision, config=vision_config(vision), **kwargs)


def skeleton(
    seen: PreTrainedConfig, text: PreTrainedConfig, processor: LlavaProcessor, feature_layer: int
) -> nn.Module:
    """A LlavaForConditionalGeneration of these two configs and this processor, on the meta device."""
    config = LlavaConfig(
        vision_config=seen,
        text_config=text,
        image_token_index=processor.tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(seen.image_size // seen.patch_size) ** 2,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        pad_token_id=processor.tokenizer.pad_token_id,
        tie_word_embeddings=text.tie_word_embeddings,
        attn_implementation=text._attn_implementation,
    )
    with torch.device("meta"):
        return LlavaForConditionalGeneration(config)


def renew_projector(
    model: nn.Module, dtype: torch.dtype, generator: torch.Generator | None = None
) -> None:
    """Give a model a projector of random weights, which start a training well, and no bias."""
    projector = type(model.model.multi_modal_projector)(model.config).to(dtype)
    for linear in (projector.linear_1, projector.linear_2):
        nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
        nn.init.zeros_(linear.bias)
    model.model.multi_modal_projector = projector


def processor_of(vision: str, language: str, seen: PreTrainedConfig) -> LlavaProcessor:
    """The tower's image processor and the language model's tokenizer, with an image and a padding token."""
    tokenizer = reading.tokenizer(language)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [IMAGE]}, replace_extra_special_tokens=False
    )
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    has_class = "clip" in seen.model_type
    return LlavaProcessor(
        image_processor=reading.image_processor(vision),
        tokenizer=tokenizer,
        patch_size=seen.patch_size,
        vision_feature_select_strategy="default" if has_class else "full",
        num_additional_image_tokens=int(has_class),
        image_token=IMAGE,
        chat_template=CHAT,
    )


def pad_to_square(processor: Any) -> None:
    """Let a processor pad images to squares of their mean colour, also once it is saved.

    So a model is asked with what it was tuned with. Raises ValueError for those that cannot.
    """
    try:
        processor.image_processor = squared(processor.image_processor)
    except ValueError as error:
        raise ValueError(f"square=True: {error}") from error
