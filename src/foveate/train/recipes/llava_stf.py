"""LLaVA-STF's two stages on LLaVA-1.5-7B. Tang and Shen 2025, arXiv:2506.07138."""

from __future__ import annotations

from dataclasses import replace

from foveate.train.recipe import Recipe
from foveate.train.recipes.llava import llava_1_5_7b, llava_1_5_7b_pretrain

CONNECTOR = {"method": "llava_stf", "positions": "renumbered"}


def llava_stf_7b_pretrain() -> Recipe:
    """LLaVA-STF's first stage: the connector alone learns to caption, 558 k images."""
    return replace(
        llava_1_5_7b_pretrain(),
        name="llava_stf_7b_pretrain",
        trains={"compressor": 1e-3},
        **CONNECTOR,
    )


def llava_stf_7b() -> Recipe:
    """LLaVA-STF's second stage: connector and language model learn to follow instructions."""
    return replace(
        llava_1_5_7b(),
        name="llava_stf_7b",
        model="./out/llava_stf_7b_pretrain",
        trains={"compressor": 2e-5, "language": 2e-5},
        **CONNECTOR,
    )
