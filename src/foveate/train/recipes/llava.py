"""LLaVA-1.5's two stages, which all methods here build on. Liu et al. 2023, arXiv:2310.03744."""

from __future__ import annotations

from dataclasses import replace

from foveate.train.recipe import Lora, Recipe


def llava_1_5_7b_pretrain() -> Recipe:
    """LLaVA-1.5's first stage: the projector learns to caption, 558 k images."""
    return Recipe(
        name="llava_1_5_7b_pretrain",
        model="lmsys/vicuna-7b-v1.5",
        vision="openai/clip-vit-large-patch14-336",
        data="data/blip_laion_cc_sbu_558k.json",
        images="data/LLaVA-Pretrain/images",
        trains={"projector": 1e-3, "compressor": 1e-3},
        batch=256,
        micro_batch=32,
        template="plain",
        dtype="bfloat16",
        bf16=True,
        checkpointing=True,
        workers=4,
    )


def llava_1_5_7b() -> Recipe:
    """LLaVA-1.5's second stage: projector and language model learn to follow instructions, 665 k records."""
    return Recipe(
        name="llava_1_5_7b",
        model="./out/llava_1_5_7b_pretrain",
        data="data/llava_v1_5_mix665k.json",
        images="data",
        trains={"projector": 2e-5, "language": 2e-5, "compressor": 2e-5},
        square=True,
        order="grouped",
        bf16=True,
        checkpointing=True,
        fsdp=True,
        workers=4,
    )


def llava_1_5_7b_lora() -> Recipe:
    """LLaVA-1.5's second stage with adapters in place of the language model's weights."""
    return replace(
        llava_1_5_7b(),
        name="llava_1_5_7b_lora",
        trains={"projector": 2e-5, "compressor": 2e-5, "lora": 2e-4},
        lora=Lora(rank=128, alpha=256, dropout=0.05),
        dtype="bfloat16",
        fsdp=False,
    )
