"""InternVL, SmolVLM and Idefics3: a large image is tiles and a small copy, all of one size."""

from __future__ import annotations

from itertools import chain
from math import prod

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from .family import Family, Visual, text, tower
from .prompts import BREAK, END, GLOBAL, IMAGE, NEWLINE, PAD, ROWS, START, Prompt

FRAMES = 2


class Tiled(Family):
    """A family with `cuts`: rows and columns of tiles of the batch's images, in turn."""

    merged = 2
    overview = 2  # behind two tiles
    projected = 4 * 32
    takes_video = True
    cuts: tuple[tuple[int, int], ...] = ((1, 1), (2, 1))

    def tiles(self, n: int) -> int:
        """Those of the batch's n-th image: one, or several and the small copy."""
        count = prod(self.cuts[n % len(self.cuts)])
        return count + (count > 1)


class InternVL(Tiled):
    """InternVL: the tiles of all images in one row, one pair of markers around those of an image."""

    name = "internvl"
    model_class = InternVLForConditionalGeneration
    class_token = True

    def config(self) -> InternVLConfig:
        vision = tower("internvl_vision", image_size=[32, 32], patch_size=[4, 4])
        return InternVLConfig(
            vision_config=vision,
            text_config=text("qwen2"),
            image_token_id=IMAGE,
            image_seq_length=self.patches,
            tie_word_embeddings=False,
        )

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        tiles = self.tiles(n)
        pixels = torch.randn(tiles, 3, 32, 32, generator=draw)
        ids = [START, *[IMAGE] * (self.patches * tiles), END]
        return Visual(ids, {"pixel_values": pixels}, self.sight(tiles))

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        pixels = torch.randn(FRAMES, 3, 32, 32, generator=draw)
        frame = [START, *[IMAGE] * self.patches, END]
        named = [m for k in range(FRAMES) for m in (NEWLINE, 10, 20 + k, 11, *frame)]
        sight = self.sight(FRAMES)
        return Visual(named[1:], {"pixel_values": pixels}, sight, images=FRAMES)


class SmolVLM(Tiled):
    """SmolVLM: markers around each tile; pixels (prompts, most tiles of a prompt, ...) and a mask.

    A prompt without images has tiles of zeros, which the model leaves out. Frames of a video are
    tiles. 5.23's processor makes no batch of images and videos both; the model takes one.
    """

    name = "smolvlm"
    model_class = SmolVLMForConditionalGeneration
    config_class = SmolVLMConfig

    def config(self) -> SmolVLMConfig | Idefics3Config:
        vision = tower(self.config_class.sub_configs["vision_config"].model_type, patch_size=4)
        return self.config_class(
            vision_config=vision,
            text_config=text("llama"),
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PAD,
        )

    def tile(self, marker: int) -> list[int]:
        return [BREAK, marker, *[IMAGE] * self.patches]

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        (rows, columns), tiles = self.cuts[n % len(self.cuts)], self.tiles(n)
        ids = [*self.tile(GLOBAL), BREAK]
        if tiles > 1:  # text stands for the markers of further rows and columns
            markers = [[first, *range(40, 39 + columns)] for first in (*ROWS, 39)[:rows]]
            lines = [m for row in markers for m in (*chain(*map(self.tile, row)), NEWLINE)]
            ids = [*lines, NEWLINE, *ids]
        return Visual(ids, pictures(tiles, draw), self.sight(tiles))

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        frames = [m for k in range(FRAMES) for m in (10, 20 + k, *self.tile(GLOBAL), BREAK)]
        ids, sight = [30, 31, *frames, NEWLINE], self.sight(FRAMES)
        return Visual(ids, pictures(FRAMES, draw), sight, images=FRAMES)

    def shares(self, row: list[Visual]) -> list[dict[str, torch.Tensor]]:
        none = pictures(0, torch.Generator())
        every = [none, *(v.parts for v in row)]
        return [{name: torch.cat([part[name] for part in every], dim=1) for name in none}]


class Idefics3(SmolVLM):
    """Idefics3: SmolVLM's batches; no videos."""

    name = "idefics3"
    model_class = Idefics3ForConditionalGeneration
    config_class = Idefics3Config
    takes_video = False
    offloads = False


def pictures(n: int, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """Tiles of one prompt (1, n, ...), and that all of their pixels count."""
    return {
        "pixel_values": torch.randn(1, n, 3, 32, 32, generator=draw),
        "pixel_attention_mask": torch.ones(1, n, 32, 32, dtype=torch.long),
    }
