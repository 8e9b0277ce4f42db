"""LLaVA and its relatives: LLaVA-NeXT and LLaVA-OneVision with tiles, Video-LLaVA with two towers."""

from __future__ import annotations

from inspect import signature
from math import prod

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaModel,
)

from .family import Family, Visual, text, tower
from .prompts import IMAGE, VIDEO_ID, Prompt
from .sight import Sight, cells, picks, shrunk, squares

FRAMES = 3
PINPOINTS = [[32, 64], [64, 32], [64, 64]]
CLIP = tower("clip_vision_model")
SIGLIP = tower("siglip_vision_model", vision_use_head=False)

# Video-LLaVA's images had a name of their own in transformers 5.18.
TAKEN = signature(VideoLlavaModel.get_image_features).parameters
IMAGES = "pixel_values" if "pixel_values" in TAKEN else "pixel_values_images"


class Llava(Family):
    """LLaVA-1.5: CLIP with a class token that is cut off, 16 patches, no markers."""

    name = "llava"
    model_class = LlavaForConditionalGeneration
    class_token = True
    selected_block = 2
    projected = 32
    thins = True

    def config(self) -> LlavaConfig:
        return LlavaConfig(
            vision_config=CLIP,
            text_config=text("llama"),
            image_token_id=IMAGE,
            vision_feature_layer=-2,
            image_seq_length=self.patches,
        )


class LlavaNext(Family):
    """LLaVA-NeXT: the whole image, then its tiles without their borders, a newline behind each row."""

    name = "llava_next"
    offloads = False  # generate meets the newline outside of any forward
    model_class = LlavaNextForConditionalGeneration
    class_token = True
    selected_block = 2
    projected = 32
    thins = True
    overview = 0
    side = 32  # of a tile, in pixels
    # Height and width, rows and columns of tiles, and of the joined tiles' patches without borders.
    cuts = (
        ((20, 60), (1, 2), (2, 8)),
        ((64, 64), (2, 2), (8, 8)),
        ((60, 16), (2, 1), (8, 2)),
    )

    def config(self) -> LlavaNextConfig:
        return LlavaNextConfig(
            vision_config=CLIP,
            text_config=text("llama"),
            image_token_id=IMAGE,
            image_grid_pinpoints=PINPOINTS,
            image_seq_length=self.patches,
        )

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        size, tiles, joined = self.cuts[n % len(self.cuts)]
        parts = {
            "pixel_values": torch.randn(
                1, 1 + prod(tiles), 3, self.side, self.side, generator=draw
            ),
            "image_sizes": torch.tensor([size]),
        }
        ids = [IMAGE] * (self.patches + joined[0] * (joined[1] + 1))
        return Visual(ids, parts, self.packed(tiles, joined), self.lines(*joined))

    def packed(self, tiles: tuple[int, int], joined: tuple[int, int]) -> Sight:
        """The whole image, and of the joined tiles what lies in the middle."""
        views, skip = 1 + prod(tiles), int(self.class_token)
        border = [(4 * t - n) // 2 for t, n in zip(tiles, joined, strict=True)]
        where = list(range(skip, skip + 16))
        for _, row, column in cells(1, *joined):
            y, x = row + border[0], column + border[1]
            tile = 1 + y // 4 * tiles[1] + x // 4
            where.append(tile * (16 + skip) + skip + y % 4 * 4 + x % 4)
        inside = [(1, row + border[0], column + border[1]) for _, row, column in cells(1, *joined)]
        grid = (
            cells(1, 4, 4) + inside
        )  # rows and columns of the tiles, so that tiles begin at fours
        return Sight(grid, picks(where, views * (16 + skip)))

    def lines(self, rows: int, columns: int) -> tuple[range, ...]:
        """Behind the whole image, rows of patches; a newline is the placeholder at the end of each."""
        starts = (self.patches + row * (columns + 1) for row in range(rows))
        return tuple(range(start, start + columns) for start in starts)


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision: tiles for an only image, no tiles for several; frames of a video are pooled."""

    name = "llava_onevision"
    model_class = LlavaOnevisionForConditionalGeneration
    class_token = False
    projected = None  # rows of large images are interpolated behind it
    thins = False
    video_id = VIDEO_ID
    takes_video = True
    # As LlavaNext's, but the second is more than two tiles and shrinks from 8 x 8 to 5 x 5.
    cuts = (LlavaNext.cuts[0], ((64, 64), (2, 2), (5, 5)), LlavaNext.cuts[2])
    selected_block = 3

    def config(self) -> LlavaOnevisionConfig:
        return LlavaOnevisionConfig(
            vision_config=SIGLIP,
            text_config=text("qwen2"),
            image_token_id=IMAGE,
            video_token_id=VIDEO_ID,
            image_grid_pinpoints=PINPOINTS,
            vision_aspect_ratio="anyres_max_2",
        )

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        if prompt.images == 1:
            return super().image(n, prompt, draw)
        parts = {
            "pixel_values": torch.randn(1, 1, 3, 32, 32, generator=draw),
            "image_sizes": torch.tensor([self.cuts[n % len(self.cuts)][0]]),
        }
        whole = range(self.patches)
        return Visual([IMAGE] * (self.patches + 1), parts, self.sight(1), (whole,))

    def packed(self, tiles: tuple[int, int], joined: tuple[int, int]) -> Sight:
        """As LLaVA-NeXT's, but for the image that shrinks."""
        if joined != (5, 5):
            return super().packed(tiles, joined)
        large, side = super().packed(tiles, (8, 8)).weights, shrunk(8, 5)
        weights = torch.cat([large[:16], torch.kron(side, side) @ large[16:]])
        return Sight(cells(1, 4, 4) + cells(1, 5, 5, first=1), weights)

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        frames = torch.randn(1, FRAMES, 3, 32, 32, generator=draw)
        whole = range(FRAMES * 4)
        ids = [VIDEO_ID] * (len(whole) + 1)
        sight = Sight(cells(FRAMES, 2, 2), squares(FRAMES, 2, 2, 2))
        return Visual(ids, {"pixel_values_videos": frames}, sight, (whole,))

    def shares(self, row: list[Visual]) -> list[dict]:
        images = sum("pixel_values" in v.parts for v in row)
        counted = [{"batch_num_images": torch.tensor([images])}] if images else []
        return [*super().shares(row), *counted]


class VideoLlava(Family):
    """Video-LLaVA: a tower for images and one for videos, where frames keep their class token."""

    name = "video_llava"
    model_class = VideoLlavaForConditionalGeneration
    video_id = VIDEO_ID
    takes_video = True
    class_token = True
    selected_block = 2
    projected = 32
    thins = True

    def config(self) -> VideoLlavaConfig:
        return VideoLlavaConfig(
            vision_config=CLIP,
            text_config=text("llama"),
            image_token_id=IMAGE,
            video_token_id=VIDEO_ID,
            image_seq_length=self.patches,
            video_seq_length=FRAMES * (self.patches + 1),
        )

    def image(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        square = super().image(n, prompt, draw)
        return Visual(square.ids, {IMAGES: square.parts["pixel_values"]}, square.sight)

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        frames = torch.randn(1, FRAMES, 3, 32, 32, generator=draw)
        grid = [
            cell for view in range(FRAMES) for cell in [(view, -1, -1), *cells(1, 4, 4, first=view)]
        ]
        sight = Sight(grid, torch.eye(FRAMES * 17))
        return Visual([VIDEO_ID] * (FRAMES * 17), {"pixel_values_videos": frames}, sight)
