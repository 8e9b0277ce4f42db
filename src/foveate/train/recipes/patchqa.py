"""The recipes' twins on PatchQA and the embedded model: the same code, minutes on any laptop.

They begin from one state, in which projector and language model have lost what they knew of the task
(`shrink`), as a language model has before it is tuned on instructions; the vision tower sees.
"""

from __future__ import annotations

from dataclasses import replace

from foveate.train.recipe import Recipe


def patchqa() -> Recipe:
    """Instruction tuning in small: one question to a scene, the vision tower frozen, no compression."""
    return Recipe(
        name="patchqa",
        model="embedded",
        data="patchqa",
        trains={"projector": 1e-3, "language": 1e-3, "compressor": 1e-3},
        shrink=0.5,
        batch=48,
        micro_batch=48,
        steps=120,
        order="sequential",
        save_every=20,
    )


def llavolta_two_stage_patchqa() -> Recipe:
    """LLaVolta's two stages in small. Chen et al. 2024, arXiv:2406.20092."""
    return _staged("two_stage")


def llavolta_three_stage_deeper_patchqa() -> Recipe:
    """LLaVolta's three stages, deeper, in small."""
    return _staged("three_stage_deeper")


def llavolta_three_stage_wider_patchqa() -> Recipe:
    """LLaVolta's three stages, wider, in small."""
    return _staged("three_stage_wider")


def llavolta_four_stage_wider_deeper_patchqa() -> Recipe:
    """LLaVolta's four stages, wider then deeper, in small."""
    return _staged("four_stage_wider_deeper")


def llavolta_four_stage_deeper_wider_patchqa() -> Recipe:
    """LLaVolta's four stages, deeper then wider, in small."""
    return _staged("four_stage_deeper_wider")


def llavolta_last_stage_patchqa() -> Recipe:
    """LLaVolta compressed to the end, in small."""
    return _staged("last_stage")


def llavolta_heavy_patchqa() -> Recipe:
    """LLaVolta's heavy compression throughout, in small."""
    return _staged("heavy")


def llavolta_light_patchqa() -> Recipe:
    """LLaVolta's light compression throughout, in small."""
    return _staged("light")


def llava_stf_patchqa_pretrain() -> Recipe:
    """LLaVA-STF's first stage in small: the connector learns alone, from a warm start."""
    return replace(
        patchqa(),
        name="llava_stf_patchqa_pretrain",
        method="llava_stf",
        positions="renumbered",
        trains={"compressor": 3e-4},
        warm_start=True,
        seed=1,  # other scenes than the second stage's
    )


def llava_stf_patchqa() -> Recipe:
    """LLaVA-STF's second stage in small: connector and language model learn together."""
    return replace(
        llava_stf_patchqa_pretrain(),
        name="llava_stf_patchqa",
        model="./out/llava_stf_patchqa_pretrain",
        trains={"compressor": 3e-4, "language": 1e-3},
        warm_start=False,
        shrink=1.0,
        seed=0,
    )


def meteor_patchqa_pretrain() -> Recipe:
    """LLaVA-Meteor's first stage in small: the fusion learns alone, from a warm start, 36 of 144 tokens."""
    return replace(
        patchqa(),
        name="meteor_patchqa_pretrain",
        method="meteor",
        # Inside as wide as the projector that it begins as; the block is small, as the model is.
        arguments={"keep": 36, "hidden": 128, "depth": 1, "expand": 1, "states": 16},
        trains={"compressor": 1e-3},
        warm_start=True,
        seed=1,  # other scenes than the second stage's
    )


def meteor_patchqa() -> Recipe:
    """LLaVA-Meteor's second stage in small: fusion and language model learn together."""
    return replace(
        meteor_patchqa_pretrain(),
        name="meteor_patchqa",
        model="./out/meteor_patchqa_pretrain",
        trains={"compressor": 1e-3, "language": 1e-3},
        warm_start=False,
        shrink=1.0,
        seed=0,
    )


def focusllava_patchqa() -> Recipe:
    """FocusLLaVA's second stage in small: both samplers, and half of what reaches the middle layer."""
    return replace(
        patchqa(),
        name="focusllava_patchqa",
        method="focusllava",
        arguments={"keep": 0.5, "sampled": [0.3, 1.0]},
    )


def patchqa_2x() -> Recipe:
    """Instruction tuning on pictures four times as large, in tiles, which this model never saw: 744 tokens.

    Nothing is shrunk: to read tiles is what there is to learn.
    """
    return replace(
        patchqa(),
        name="patchqa_2x",
        model="embedded-tiled",
        data="patchqa-2x",
        shrink=1.0,
        batch=24,
        micro_batch=12,
    )


def focusllava_patchqa_2x() -> Recipe:
    """FocusLLaVA's second stage on tiles, in small: the router thins out the map and leaves the overview."""
    focus = focusllava_patchqa()
    return replace(
        patchqa_2x(),
        name="focusllava_patchqa_2x",
        method=focus.method,
        arguments=focus.arguments,
    )


def _staged(schedule: str) -> Recipe:
    return replace(
        patchqa(),
        name=f"llavolta_{schedule}_patchqa",
        method="llavolta",
        arguments={"schedule": schedule},
    )
