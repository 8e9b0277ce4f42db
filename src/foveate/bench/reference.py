"""The model that is measured where none is given: random weights, honest proportions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

PATCHES, TEXT = 24 * 24, 64
# A small tower, so that the language model is what is measured; everything else as LLaVA-1.5 has it.
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 336,
    "patch_size": 14,
}
LANGUAGE = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 2000,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
IMAGE = 1999


def reference(seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
    """A random Llava of 12 layers, 768 wide, whose tower makes 576 patches; and a prompt of 576 + 64."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "llava", vision_config=VISION, text_config=LANGUAGE, image_token_id=IMAGE
    )
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    before, after = torch.randint(3, IMAGE, (2, TEXT // 2))
    ids = torch.cat([before, torch.full((PATCHES,), IMAGE), after])[None]
    return model, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, VISION["image_size"], VISION["image_size"]),
    }
