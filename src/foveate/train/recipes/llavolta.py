"""LLaVolta's staged instruction tuning of LLaVA-1.5-7B. Chen et al. 2024, arXiv:2406.20092."""

from __future__ import annotations

from dataclasses import replace

from foveate.train.recipe import Recipe
from foveate.train.recipes.llava import llava_1_5_7b, llava_1_5_7b_pretrain


def llavolta_two_stage_7b() -> Recipe:
    """LLaVolta, two stages: (2,8), then uncompressed."""
    return _staged("two_stage")


def llavolta_three_stage_deeper_7b() -> Recipe:
    """LLaVolta, three stages, deeper: (2,8), (16,8), then uncompressed."""
    return _staged("three_stage_deeper")


def llavolta_three_stage_wider_7b() -> Recipe:
    """LLaVolta, three stages, wider: (2,8), (2,2), then uncompressed."""
    return _staged("three_stage_wider")


def llavolta_four_stage_wider_deeper_7b() -> Recipe:
    """LLaVolta, four stages, wider then deeper: (2,8), (2,2), (16,2), then uncompressed."""
    return _staged("four_stage_wider_deeper")


def llavolta_four_stage_deeper_wider_7b() -> Recipe:
    """LLaVolta, four stages, deeper then wider: (2,8), (16,8), (16,2), then uncompressed."""
    return _staged("four_stage_deeper_wider")


def llavolta_last_stage_7b() -> Recipe:
    """LLaVolta, compressed to the end: (2,16), (16,16), (16,4)."""
    return _staged("last_stage")


def llavolta_heavy_7b_pretrain() -> Recipe:
    """The first stage of LLaVolta's heavy compression: the projector learns behind (2,8), 558 k images."""
    return _compressed(llava_1_5_7b_pretrain(), "heavy", "_pretrain")


def llavolta_heavy_7b() -> Recipe:
    """LLaVolta's heavy compression throughout, pre-training too: (2,8)."""
    return replace(_staged("heavy"), model="./out/llavolta_heavy_7b_pretrain")


def llavolta_light_7b_pretrain() -> Recipe:
    """The first stage of LLaVolta's light compression: the projector learns behind (16,8), 558 k images."""
    return _compressed(llava_1_5_7b_pretrain(), "light", "_pretrain")


def llavolta_light_7b() -> Recipe:
    """LLaVolta's light compression throughout, pre-training too: (16,8)."""
    return replace(_staged("light"), model="./out/llavolta_light_7b_pretrain")


def _staged(schedule: str) -> Recipe:
    """The second stage alone is compressed, and begins from an uncompressed first one."""
    return _compressed(llava_1_5_7b(), schedule)


def _compressed(recipe: Recipe, schedule: str, stage: str = "") -> Recipe:
    return replace(
        recipe,
        name=f"llavolta_{schedule}_7b{stage}",
        method="llavolta",
        arguments={"schedule": schedule},
    )
