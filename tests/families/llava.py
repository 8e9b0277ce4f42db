"""LLaVA and its relatives: LLaVA-NeXT and LLaVA-OneVision with tiles, Video-LLaVA with two towers."""

from __future__ import annotations

from inspect import signature

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
    projected = 32

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
    model_class = LlavaNextForConditionalGeneration
    class_token = True
    projected = 32
    # Height and width, tiles with the whole image, rows and columns of the joined tiles.
    cuts = (
        ((20, 60), 3, (2, 8)),
        ((64, 64), 5, (8, 8)),
        ((60, 16), 3, (8, 2)),
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
            "pixel_values": torch.randn(1, tiles, 3, 32, 32, generator=draw),
            "image_sizes": torch.tensor([size]),
        }
        lines = self.lines(*joined)
        return Visual([IMAGE] * (lines[-1].stop + 1), parts, lines=lines)

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
    video_id = VIDEO_ID
    takes_video = True
    # As LlavaNext's, but the second is more than two tiles and shrinks from 8 x 8 to 5 x 5.
    cuts = (LlavaNext.cuts[0], ((64, 64), 5, (5, 5)), LlavaNext.cuts[2])

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
        return Visual([IMAGE] * (self.patches + 1), parts, lines=(whole,))

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        frames = torch.randn(1, FRAMES, 3, 32, 32, generator=draw)
        whole = range(FRAMES * 4)
        ids = [VIDEO_ID] * (len(whole) + 1)
        return Visual(ids, {"pixel_values_videos": frames}, lines=(whole,))

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
    projected = 32

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
        return Visual(square.ids, {IMAGES: square.parts["pixel_values"]})

    def video(self, n: int, prompt: Prompt, draw: torch.Generator) -> Visual:
        frames = torch.randn(1, FRAMES, 3, 32, 32, generator=draw)
        return Visual([VIDEO_ID] * (FRAMES * 17), {"pixel_values_videos": frames})
