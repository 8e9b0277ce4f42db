"""FocusLLaVA's two stages, on LLaVA-NeXT 8B and on LLaVA-1.5-7B. Zhu et al. 2024, arXiv:2411.14228.

The first stage knows nothing of samplers: it is the base model's own. In the second both samplers are at
work, and the router learns as fast as the language model; `--set 'trains.*router*=2e-4'` gives it a rate of
its own. Every question is a row of its own, because the text-guided sampler reads it.

The balance between scales is asked for within each micro-batch: in the 8B recipe, within four prompts'
images. Its weight, 0.1, was found on the small twin, at 48 scenes a forward and on one task; for images as
few and as varied as here it is untried.

Differs from the paper: the 8B model begins as the tuned LLaVA-NeXT of the Hub, whose projector the first
stage goes on teaching, and not as a tower and a language model that never met.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foveate.train.recipe import Recipe
from foveate.train.recipes.llava import llava_1_5_7b, llava_1_5_7b_pretrain

LONGEST = 6144  # columns: 2,928 of an image in four tiles and its overview, and the conversation
SAMPLERS: dict[str, Any] = {
    "method": "focusllava",
    "arguments": {"keep": 0.5, "sampled": [0.3, 1.0]},
    "split": True,
}


def focusllava_llama3_8b_pretrain() -> Recipe:
    """FocusLLaVA's first stage on LLaVA-NeXT 8B: the projector learns to caption, every token kept."""
    return replace(
        llava_1_5_7b_pretrain(),
        name="focusllava_llama3_8b_pretrain",
        model="llava-hf/llama3-llava-next-8b-hf",
        vision=None,
        trains={"projector": 1e-3},
        micro_batch=8,
        max_length=LONGEST,
    )


def focusllava_llama3_8b() -> Recipe:
    """FocusLLaVA's second stage on LLaVA-NeXT 8B: all of it learns to follow instructions, 1 M records."""
    return replace(
        llava_1_5_7b(),
        name="focusllava_llama3_8b",
        model="./out/focusllava_llama3_8b_pretrain",
        data="data/open-llava-next_instruct_mix1M.json",
        trains={"vision": 2e-6, "projector": 2e-5, "language": 2e-5, "compressor": 2e-5},
        micro_batch=4,
        max_length=LONGEST,
        square=False,
        **SAMPLERS,
    )


def focusllava_7b() -> Recipe:
    """FocusLLaVA's second stage on LLaVA-1.5-7B, whose images have one view; the tower stays as it is."""
    return replace(llava_1_5_7b(), name="focusllava_7b", **SAMPLERS)
