"""Qwen2.5-VL and Qwen3-VL: images of any size, and positions in time, height and width."""

from __future__ import annotations

from math import prod

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from .family import Family, Visual, text
from .prompts import END, IMAGE, START, VIDEO_ID, Prompt
from .sight import Cell, Sight, cells, means

IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO_ID,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
TOWER = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 64,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
PIXELS = 3 * 2 * 4 * 4  # of a patch: colours, frames, height, width
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


class Qwen25VL(Family):
    """Qwen2.5-VL: attention in windows of 2 x 2 merged patches, over the whole image in blocks 1, 3."""

    name = "qwen2_5_vl"
    model_class = Qwen2_5_VLForConditionalGeneration
    video_id = VIDEO_ID
    takes_video = True
    own_positions = True
    # Time, height and width in patches, of which four make a placeholder.
    images = ((1, 8, 8), (1, 6, 10), (1, 4, 6))
    videos = ((2, 4, 6), (3, 4, 4))

    def config(self) -> Qwen2_5_VLConfig:
        vision = TOWER | {
            "window_size": 16,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
        }
        decoder = text("qwen2_5_vl_text", rope_parameters=ROTARY)
        return Qwen2_5_VLConfig(vision_config=vision, text_config=decoder, **IDS)

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        grid = self.images[n % len(self.images)]
        parts = {
            "pixel_values": torch.randn(prod(grid), PIXELS, generator=draw),
            "image_grid_thw": torch.tensor([grid]),
        }
        ids = [START, *[IMAGE] * (prod(grid) // 4), END]
        return Visual(ids, parts, self.sight_of(grid))

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        grid = self.videos[n % len(self.videos)]
        parts = {
            "pixel_values_videos": torch.randn(prod(grid), PIXELS, generator=draw),
            "video_grid_thw": torch.tensor([grid]),
        }
        return Visual(self.film(grid), parts | self.timing(n), self.sight_of(grid))

    def sight_of(self, grid: tuple[int, int, int]) -> Sight:
        """Four tokens of the tower in a row make a patch; patches lie as `order` says."""
        where = cells(grid[0], grid[1] // 2, grid[2] // 2)
        windows = [range(4 * i, 4 * i + 4) for i in map(self.order(where).index, where)]
        return Sight(where, means([list(w) for w in windows], prod(grid)), 4)

    def order(self, where: list[Cell]) -> list[Cell]:
        """The patches window by window, as this tower goes through them."""
        return sorted(where, key=lambda cell: (cell[0], cell[1] // 2, cell[2] // 2))

    def film(self, grid: tuple[int, int, int]) -> list[int]:
        return [START, *[VIDEO_ID] * (prod(grid) // 4), END]

    def timing(self, n: int) -> dict[str, torch.Tensor]:
        return {"second_per_grid_ts": torch.tensor([1.0 + n % 2])}

    def types(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO_ID).int()}


class Qwen3VL(Qwen25VL):
    """Qwen3-VL: DeepStack from three blocks; a time stamp and markers around each step of a video."""

    name = "qwen3_vl"
    model_class = Qwen3VLForConditionalGeneration

    def config(self) -> Qwen3VLConfig:
        vision = TOWER | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
        rotary = ROTARY | {"mrope_interleaved": True}
        decoder = text("qwen3_vl_text", head_dim=16, rope_parameters=rotary)
        return Qwen3VLConfig(vision_config=vision, text_config=decoder, **IDS)

    def film(self, grid: tuple[int, int, int]) -> list[int]:
        frame = [START, *[VIDEO_ID] * (grid[1] * grid[2] // 4), END]
        stamped = [n for second in range(grid[0]) for n in (10, 20 + second, 11, *frame)]
        # The chat template puts one more pair around the whole, and 5.23's processor leaves it.
        return [START, *stamped, END]

    def order(self, where: list[Cell]) -> list[Cell]:
        return where

    def timing(self, n: int) -> dict[str, torch.Tensor]:
        return {}
