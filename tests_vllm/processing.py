"""Real processors of the families that only vLLM's environment has all parts of, made here."""

from __future__ import annotations

import processors
from processors import ONEVISION, QWEN, square_of, tokenizer
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PixtralImageProcessorPil,
    PixtralProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
)

INTERNVL = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
MISTRAL3 = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", "[IMG]")


def llava_onevision():
    names = ("<|im_start|>", "<|im_end|>", "<image>", "<video>")
    square = square_of(32)["size"]
    points = [[32, 64], [64, 32], [64, 64]]
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=points),
        tokenizer(*names, eos="<|im_end|>"),
        LlavaOnevisionVideoProcessor(size=square),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
        chat_template=ONEVISION,
    )


def internvl():
    parts = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>"}
    parts["video"] = "<video>"
    extra = {f"{name}_token": token for name, token in parts.items()}
    names = ("<|im_start|>", "<|im_end|>", *parts.values())
    square = square_of(32)["size"]
    return InternVLProcessor(
        GotOcr2ImageProcessorPil(size=square, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer(*names, eos="<|im_end|>", extra_special_tokens=extra),
        InternVLVideoProcessor(size=square),
        image_seq_length=16,
        chat_template=INTERNVL,
    )


def mistral3():
    names = ("<|im_start|>", "<|im_end|>", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    return PixtralProcessor(
        PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size=4),
        tokenizer(*names, eos="<|im_end|>"),
        patch_size=4,
        spatial_merge_size=2,
        chat_template=MISTRAL3,
    )


def qwen2_5_vl():
    """The tests' own has no part for videos, and cannot be saved."""
    own = processors.qwen2_5_vl()
    parts = own.image_processor, own.tokenizer, Qwen2VLVideoProcessor()
    return Qwen2_5_VLProcessor(*parts, chat_template=own.chat_template)


OWN = {made.__name__: made for made in (llava_onevision, internvl, mistral3, qwen2_5_vl)}


def processor(name: str):
    return OWN[name]() if name in OWN else processors.processor(name)
