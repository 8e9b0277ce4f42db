"""Model families as the contract sees them: a small random model, and batches for it.

To put a family under contract: one class with `model`, `inputs`, `single`; one line in FAMILIES.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

LAYERS = 5
IMAGE, PAD, BOS, EOS = 99, 0, 2, 1


@dataclass(frozen=True)
class Prompt:
    """What one prompt is made of: numbers of text tokens around images, in order; 'i' is an image."""

    parts: tuple[int | str, ...]

    @property
    def images(self) -> int:
        return self.parts.count("i")


ONE = Prompt((3, "i", 6))
SHORT = Prompt((2, "i", 2))
TWO = Prompt((2, "i", 4, "i", 3))
TOUCHING = Prompt((1, "i", "i", 5))
TEXT = Prompt((7,))
MIXED = (ONE, SHORT, TWO, TOUCHING, TEXT)


@dataclass
class Llava:
    """LLaVA-1.5 in small: CLIP with a class token, 16 patches, a Llama of 5 layers."""

    patches: int = 16
    made: dict = field(default_factory=dict)

    def config(self) -> LlavaConfig:
        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        )
        text = LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=100,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
        return LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=IMAGE,
            vision_feature_layer=-2,
            image_seq_length=self.patches,
        )

    def model(self, attention: str = "sdpa") -> LlavaForConditionalGeneration:
        """A fresh model; the same weights every time."""
        torch.manual_seed(0)
        config = self.config()
        config._attn_implementation = attention
        model = LlavaForConditionalGeneration(config)
        # Random logits of small models tie nearly; larger weights keep greedy decoding decided.
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.dim() >= 2 and "embed" not in name:
                    p.mul_(3)
        model.generation_config.eos_token_id = None
        return model.eval()

    def inputs(self, prompts=(ONE, SHORT), padding: str = "left", seed: int = 1) -> dict:
        """A batch of prompts as a processor makes it: ids, mask, pixels."""
        draw = torch.Generator().manual_seed(seed)
        rows = [self._ids(p, draw) for p in prompts]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), PAD)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            span = slice(longest - len(row), longest) if padding == "left" else slice(len(row))
            ids[i, span], mask[i, span] = row, 1
        images = sum(p.images for p in prompts)
        batch = {"input_ids": ids, "attention_mask": mask}
        if images:
            batch["pixel_values"] = torch.randn(images, 3, 32, 32, generator=draw)
        return batch

    def single(self, batch: dict, prompts, i: int) -> dict:
        """Row i of a batch, alone and without padding."""
        real = batch["attention_mask"][i].bool()
        first = sum(p.images for p in prompts[:i])
        alone = {
            "input_ids": batch["input_ids"][i : i + 1, real],
            "attention_mask": batch["attention_mask"][i : i + 1, real],
        }
        if prompts[i].images:
            alone["pixel_values"] = batch["pixel_values"][first : first + prompts[i].images]
        return alone

    def _ids(self, prompt: Prompt, draw: torch.Generator) -> torch.Tensor:
        pieces = [
            torch.full((self.patches,), IMAGE)
            if part == "i"
            else torch.randint(3, 90, (part,), generator=draw)
            for part in prompt.parts
        ]
        return torch.cat(pieces)


FAMILIES = {"llava": Llava()}
