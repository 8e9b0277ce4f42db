"""LLaVolta's staged instruction tuning of LLaVA-1.5-7B. Chen et al. 2024, arXiv:2406.20092."""

from __future__ import annotations

from dataclasses import replace

from foveate.train.recipe import Recipe
from foveate.train.recipes.llava import llava_1_5_7b


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


def llavolta_heavy_7b() -> Recipe:
    """LLaVolta's heavy compression throughout: (2,8)."""
    return _staged("heavy")


def llavolta_light_7b() -> Recipe:
    """LLaVolta's light compression throughout: (16,8)."""
    return _staged("light")


def _staged(schedule: str) -> Recipe:
    return replace(
        llava_1_5_7b(),
        name=f"llavolta_{schedule}_7b",
        method="llavolta",
        arguments={"schedule": schedule},
    )
