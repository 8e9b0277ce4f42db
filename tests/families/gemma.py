"""Gemma 3 and PaliGemma: SigLIP, and visual tokens that see each other in both directions."""

from __future__ import annotations

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from .family import LAYERS, Family, Visual, text, tower
from .prompts import BOS, END, IMAGE, NEWLINE, START, Prompt


class Gemma3(Family):
    """Gemma 3: layers with a sliding window and without, 64 patches pooled to 16 placeholders."""

    name = "gemma3"
    model_class = Gemma3ForConditionalGeneration
    around = ([NEWLINE, START], [END, NEWLINE])
    projected = 32
    merged = 2
    window = 128  # no prompt of the tests is longer

    def config(self) -> Gemma3Config:
        kinds = ["sliding_attention", "full_attention"] * LAYERS
        decoder = text(
            "gemma3_text", head_dim=16, sliding_window=self.window, layer_types=kinds[:LAYERS]
        )
        return Gemma3Config(
            vision_config=tower("siglip_vision_model", patch_size=4, vision_use_head=False),
            text_config=decoder,
            mm_tokens_per_image=self.patches,
            image_token_id=IMAGE,
            boi_token_index=START,
            eoi_token_index=END,
        )

    def types(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"token_type_ids": (ids == IMAGE).long()}


class PaliGemma(Family):
    """PaliGemma: the whole prompt sees itself in both directions; no markers around images.

    The processor puts BOS behind the last image and a newline at the end. It refuses a batch without
    images; the model takes one, and here it is BOS, text, newline. It also gives labels that leave
    out every token; they are not among the inputs here.
    """

    name = "paligemma"
    model_class = PaliGemmaForConditionalGeneration
    answer_type = 1
    projected = 32
    thins = True

    def config(self) -> PaliGemmaConfig:
        return PaliGemmaConfig(
            vision_config=tower("siglip_vision_model", vision_use_head=False),
            text_config=text("gemma", num_key_value_heads=1, head_dim=16),
            image_token_id=IMAGE,
            projection_dim=64,
        )

    def row(self, prompt: Prompt, texts: list[list[int]], visuals: list[Visual]) -> list[int]:
        ids = super().row(prompt, texts, visuals)
        behind = max((k + 1 for k, n in enumerate(ids) if n == IMAGE), default=0)
        return [*ids[:behind], BOS, *ids[behind:], NEWLINE]

    def types(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"token_type_ids": torch.zeros_like(ids)}

    def positions(self, batch: dict) -> dict:
        return {"position_ids": super().positions(batch)["position_ids"] + 1}
