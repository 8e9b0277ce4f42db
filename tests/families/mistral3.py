"""Mistral 3: a Pixtral tower, images of any size, a marker behind every row of placeholders."""

from __future__ import annotations

import torch
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from .family import Family, Visual, text, tower
from .prompts import BREAK, END, IMAGE, Prompt
from .sight import Sight, cells, squares


class Mistral3(Family):
    """Mistral 3.1: 2 x 2 patches of 4 pixels make a placeholder; pixels padded to the largest image."""

    name = "mistral3"
    model_class = Mistral3ForConditionalGeneration
    projected = 32
    images = ((32, 32), (24, 40), (40, 16))  # height and width

    def config(self) -> Mistral3Config:
        return Mistral3Config(
            vision_config=tower("pixtral", head_dim=8, image_size=64, patch_size=4),
            text_config=text("mistral", head_dim=16, sliding_window=None),
            image_token_id=IMAGE,
            spatial_merge_size=2,
            tie_word_embeddings=False,
        )

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        height, width = self.images[n % len(self.images)]
        ids = ([IMAGE] * (width // 8) + [BREAK]) * (height // 8)
        parts = {
            "pixel_values": torch.randn(1, 3, height, width, generator=draw),
            "image_sizes": torch.tensor([[height, width]]),
        }
        rows, columns = height // 8, width // 8
        sight = Sight(cells(1, rows, columns), squares(1, rows, columns, 2), 4)
        return Visual([*ids[:-1], END], parts, sight)
