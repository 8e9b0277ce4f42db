"""Fovea, one training for every budget: LLaVA-1.5's second stage, and its twin on PatchQA. Ours, no paper.

Each image draws its budget between a twentieth and all of its tokens. The same weights' answer with all
tokens teaches the compressed one (`distill`), and stays learnt itself (`full`). In small, the scorer learns
at first where those answers look (`attend`), which takes whole attention maps: too many at 7B. Every
question is a row of its own, because the scorer reads it. At 7B the numbers are those of the twin, untried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foveate.train.recipe import Recipe
from foveate.train.recipes.llava import llava_1_5_7b, llava_1_5_7b_lora
from foveate.train.recipes.patchqa import patchqa

LEARNED: dict[str, Any] = {
    "weights": "question",
    "vector": "mean",
    "focus": 2.0,
    "sampled": [0.05, 1.0],
}
TAUGHT: dict[str, Any] = {"method": "fovea", "distill": 0.5, "full": 0.5, "split": True}


def fovea_7b() -> Recipe:
    """Fovea on LLaVA-1.5-7B: any budget from one second stage."""
    arguments = {"keep": 64, **LEARNED}
    return replace(llava_1_5_7b(), name="fovea_7b", **TAUGHT, arguments=arguments)


def fovea_7b_lora() -> Recipe:
    """Fovea on LLaVA-1.5-7B with adapters in place of the language model's weights."""
    arguments = {"keep": 64, **LEARNED}
    return replace(llava_1_5_7b_lora(), name="fovea_7b_lora", **TAUGHT, arguments=arguments)


def fovea_patchqa() -> Recipe:
    """Fovea in small, from the finished embedded model: minutes a hundred steps, better the longer."""
    return replace(
        patchqa(),
        name="fovea_patchqa",
        **TAUGHT,
        arguments={"keep": 36, **LEARNED},
        trains={"projector": 5e-4, "language": 5e-4, "compressor": 1e-3},
        shrink=1.0,
        attend=0.5,
        attention="eager",
        steps=720,
    )
