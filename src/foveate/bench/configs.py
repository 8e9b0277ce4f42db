"""Models by the name of their public config, with random weights, and the prompt that each is asked.

Written out from the config.json of the checkpoint that `source` names; nothing is downloaded. A prompt
is one image, at the size that the family makes of a large square one, and 64 columns of text, laid out
as the processor does. Rows of a batch have images and words of their own and the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from foveate.hosts import reading

TEXT = 64
SIDE, PATCH = 336, 14  # CLIP-L's image and patch, in pixels
TILE = (SIDE // PATCH) ** 2


@dataclass(frozen=True)
class Named:
    """A model by name: its config, and what its processor makes of one image.

    source   the checkpoint whose config this is
    arguments  of the config
    visual   columns an image takes in the prompt
    pixels   (images, generator) → the processor's tensors for that many images
    around   ids that stand directly before and behind an image
    """

    source: str
    arguments: dict[str, Any]
    visual: int
    pixels: Callable[[int, torch.Generator], dict[str, Tensor]]
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def config(self) -> Any:
        """The config as transformers reads it."""
        arguments = dict(self.arguments)
        return AutoConfig.for_model(arguments.pop("model_type"), **arguments)

    def inputs(self, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
        """A batch of prompts as the processor makes it."""
        draw = torch.Generator().manual_seed(seed)
        before, after = (torch.tensor(ids, dtype=torch.long) for ids in self.around)
        words = TEXT - len(before) - len(after)
        text = torch.randint(3, 1000, (batch, words), generator=draw)
        image = torch.full((self.visual,), self.arguments["image_token_id"])
        middle = torch.cat([before, image, after]).expand(batch, -1)
        ids = torch.cat([text[:, : words // 2], middle, text[:, words // 2 :]], dim=1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.arguments["model_type"].startswith("qwen"):
            inputs["mm_token_type_ids"] = (ids == self.arguments["image_token_id"]).int()
        return inputs | self.pixels(batch, draw)


def showing(named: Named, visual: int) -> Named:
    """The same with an image of about so many tokens: the square of patches that comes nearest.

    Raises ValueError for a model whose images are not one square that its tower sees whole.
    """
    if named.arguments["model_type"] != "llava":
        raise ValueError(f"its images take {named.visual} tokens, not {visual}: want another model")
    side = max(round(visual**0.5), 1)
    vision = named.arguments["vision_config"] | {"image_size": side * PATCH}
    sized = {"vision_config": vision, "image_seq_length": side**2}
    return replace(
        named,
        arguments=named.arguments | sized,
        visual=side**2,
        pixels=partial(_squares, pixels=side * PATCH),
    )


def build(
    config: Any,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> nn.Module:
    """A model of this config with random weights, ready for inference; `generate` never stops early."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = reading.untrained(config, dtype=dtype, attn_implementation="sdpa")
    model.generation_config.eos_token_id = None
    return model.eval()


def like(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs where the model is, in its dtype."""
    moved = {k: v.to(model.device) for k, v in inputs.items()}
    return {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in moved.items()}


def _squares(images: int, draw: torch.Generator, pixels: int = SIDE) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(images, 3, pixels, pixels, generator=draw)}


def _tiles(images: int, draw: torch.Generator) -> dict[str, Tensor]:
    """672 × 672 pixels: the whole image and its quarters."""
    return {
        "pixel_values": torch.randn(images, 5, 3, SIDE, SIDE, generator=draw),
        "image_sizes": torch.tensor([[2 * SIDE, 2 * SIDE]]).expand(images, -1),
    }


def _packed(images: int, draw: torch.Generator) -> dict[str, Tensor]:
    """1008 × 1008 pixels: 72 × 72 patches of two equal frames, of which four become one token."""
    return {
        "pixel_values": torch.randn(images * 72 * 72, 3 * 2 * PATCH * PATCH, generator=draw),
        "image_grid_thw": torch.tensor([[1, 72, 72]]).expand(images, -1),
    }


CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 768,
    "vocab_size": 32000,
}
LLAVA = {
    "model_type": "llava",
    "vision_config": CLIP,
    "text_config": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "vocab_size": 32064,
        "pad_token_id": 32001,
    },
    "image_token_id": 32000,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "image_seq_length": TILE,
    "dtype": "float16",
}
LLAVA_NEXT = {
    "model_type": "llava_next",
    "vision_config": CLIP,
    "text_config": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "vocab_size": 128320,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
    "image_token_id": 128256,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "image_seq_length": TILE,
    "dtype": "float16",
}
QWEN = {
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
    },
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [16, 24, 24],
        },
        "vocab_size": 152064,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "dtype": "bfloat16",
}
# A small tower, so that the language model is what is measured; everything else as LLaVA-1.5 has it.
SMALL = LLAVA | {
    "vision_config": CLIP
    | {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 2000,
        "pad_token_id": 0,
    },
    "image_token_id": 1999,
    "dtype": "float32",
}

# A slice of LLaVA-1.5-7B: every width is its own, and of its blocks and decoder layers there are a few.
# Nine blocks are the fewest of which a method can read eight hidden states.
SLICE = LLAVA | {
    "vision_config": CLIP | {"num_hidden_layers": 9},
    "text_config": LLAVA["text_config"]
    | {"num_hidden_layers": 2, "vocab_size": 2000, "pad_token_id": 0},
    "image_token_id": 1999,
    "dtype": "float32",
}

CONFIGS = {
    "slice": Named("no checkpoint", SLICE, TILE, _squares),
    "small": Named("no checkpoint", SMALL, TILE, _squares),
    "llava-1.5-7b": Named("llava-hf/llava-1.5-7b-hf", LLAVA, TILE, _squares),
    # The quarters stand as one grid of 48 × 48 with a newline behind each row.
    "llava-next-8b": Named("llava-hf/llama3-llava-next-8b-hf", LLAVA_NEXT, TILE + 48 * 49, _tiles),
    "qwen2.5-vl-7b": Named(
        "Qwen/Qwen2.5-VL-7B-Instruct", QWEN, 36 * 36, _packed, ((151652,), (151653,))
    ),
}
