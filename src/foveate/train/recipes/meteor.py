"""LLaVA-Meteor's two stages on LLaVA-1.5-7B. Li et al. 2025, arXiv:2505.11945.

Both stages keep the same number of tokens, and both read what the user says: the first beside LLaVA's
"plain" text, the second question by question. The first stage of another budget than 144 is
`foveate train meteor_7b_pretrain --set name=meteor_64_7b_pretrain --set arguments.keep=64`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foveate.train.recipe import Recipe
from foveate.train.recipes.llava import llava_1_5_7b, llava_1_5_7b_pretrain


def meteor_7b_pretrain() -> Recipe:
    """LLaVA-Meteor's first stage: the fusion alone learns to caption from 144 tokens, 558 k images."""
    return replace(
        llava_1_5_7b_pretrain(),
        name="meteor_7b_pretrain",
        method="meteor",
        arguments={"keep": 144},
        trains={"compressor": 1e-3},
    )


def meteor_7b() -> Recipe:
    """LLaVA-Meteor's second stage: fusion and language model learn to follow instructions, 144 tokens."""
    return _instructed("meteor_7b", keep=144)


def meteor_64_7b() -> Recipe:
    """LLaVA-Meteor's second stage at 64 tokens."""
    return _instructed("meteor_64_7b", keep=64)


def meteor_36_7b() -> Recipe:
    """LLaVA-Meteor's second stage at 36 tokens."""
    return _instructed("meteor_36_7b", keep=36)


def meteor_random_7b() -> Recipe:
    """LLaVA-Meteor's second stage with 36, 64 or 144 tokens, drawn for each image and step."""
    return _instructed("meteor_random_7b", keep=144, sampled=[36, 64, 144])


def _instructed(name: str, **arguments: Any) -> Recipe:
    return replace(
        llava_1_5_7b(),
        name=name,
        model=f"./out/{name}_pretrain",
        method="meteor",
        arguments=arguments,
        trains={"compressor": 2e-5, "language": 2e-5},
        split=True,
    )
