"""A LLaVA of four narrow layers in a folder, and pictures and conversations to train it on."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from processors import image, llava
from safetensors.torch import load_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from foveate import cli
from foveate.train import Lora, Recipe

LAYERS, WIDTH = 4, 32
SAID = "cat sits on the mat the answer is yes no or a red dog"
WORDS = SAID.split()
# Changes of a recipe: a schedule, a compressor that learns, one that draws, adapters.
STAGED = {"method": "llavolta", "arguments": {"schedule": "four_stage_wider_deeper"}}
LEARNED = {"method": "depthwise", "arguments": {"keep": 0.25, "layer": 1}}
RANDOM = {"method": "random", "arguments": {"keep": 5, "layer": 2}}
ADAPTERS = {
    "lora": Lora(rank=4, alpha=8, dropout=0.05),
    "trains": {"lora": 1e-2, "projector": 1e-2, "compressor": 1e-2},
}


def vision() -> CLIPVisionConfig:
    """Sixteen patches to a picture of 32 × 32."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=WIDTH,
    )


def speaker(words: int, **more) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **more,
    )


def model_folder(folder: Path) -> Path:
    """A model of random weights and its processor, saved."""
    processor = llava()
    words = processor.tokenizer
    config = LlavaConfig(
        vision_config=vision(),
        text_config=speaker(len(words), eos_token_id=words.eos_token_id),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def conversation(n: int, images: bool) -> dict:
    """Answers of one to nine words; every other conversation asks twice."""
    said = [WORDS[(3 * n + k) % len(WORDS)] for k in range(1 + n % 9)]
    turns = [
        ("human", "What is in the picture?" if images else f"Say {n}."),
        ("gpt", " ".join(said)),
    ]
    if n % 2:
        turns += [("human", "Sure?"), ("gpt", "yes")]
    if images:
        turns[0] = ("human", "<image>\n" + turns[0][1])
    value = {"id": str(n), "conversations": [{"from": f, "value": v} for f, v in turns]}
    return {**value, "image": f"{n}.png"} if images else value


def data_file(folder: Path, n: int = 30, text: int = 3) -> Path:
    """n conversations, every `text`-th without a picture, in one JSON file beside their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i in range(n):
        found.append(conversation(i, images=bool(i % text)))
        if i % text:
            image(i, 30 + i % 5, 40 - i % 3).save(folder / f"{i}.png")
    path = folder / "set.json"
    path.write_text(json.dumps(found, indent=1))
    return path


def card(place: Path, file: Path, **changes) -> Recipe:
    """Six steps of eight conversations."""
    trains = {"projector": 1e-2, "language": 3e-3, "compressor": 1e-2}
    where = {"model": str(place), "data": str(file), "images": str(file.parent)}
    steps = {"batch": 8, "micro_batch": 8, "steps": 6, "save_every": 2, "keep_checkpoints": 9}
    return Recipe(**{"name": "small", "trains": trains, **where, **steps, **changes})


def losses(document: dict) -> list[float]:
    return [entry["loss"] for entry in document["history"] if "loss" in entry]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(Path(out) / "model.safetensors")


def known(document: dict) -> list[dict]:
    """The history without what time it took."""
    timed = re.compile(r"(cpu_)?seconds|.*runtime.*|.*per_second.*|total_flos")
    logs = (entry for entry in document["history"] if entry.keys() & {"loss", "eval_loss"})
    return [{k: v for k, v in entry.items() if not timed.fullmatch(k)} for entry in logs]


def alike(out: Path, other: Path) -> None:
    """The same weights, bit for bit."""
    mine, theirs = weights(out), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)


def same(out: Path, document: dict, other: Path, unbroken: dict) -> None:
    """The same losses and the same weights, bit for bit."""
    assert known(document) == known(unbroken)
    alike(out, other)


def unmarked(out: Path) -> None:
    """Make a run one of an earlier foveate, which did not say that its checkpoints have manifests."""
    card = json.loads((out / "recipe.json").read_text())
    del card["manifests"]
    (out / "recipe.json").write_text(json.dumps(card))


def words(recipe: Recipe) -> list[str]:
    """What makes this recipe of the recipe `patchqa` on the command line."""
    from dataclasses import fields

    from foveate.train import RECIPES

    base, found = RECIPES["patchqa"](), []
    for field in fields(recipe):
        new, old = getattr(recipe, field.name), getattr(base, field.name)
        if new == old or field.name == "name":
            continue
        if field.name in ("trains", "arguments"):
            gone = {k: None for k in old if k not in new}
            found += [f"{field.name}.{k}={v}" for k, v in {**gone, **new}.items()]
        elif field.name == "lora":
            found += [f"lora.{k}={getattr(new, k)}" for k in ("rank", "alpha", "dropout")]
        else:
            found.append(f"{field.name}={new}")
    return ["patchqa", *(word for pair in found for word in ("--set", pair))]


def command(*arguments: object, ranks: int = 1) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable, *(launch if ranks > 1 else []), "-m", "foveate", *map(str, arguments)]


def quiet() -> dict[str, str]:
    """The environment of a process of its own, on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def begun(
    line: list[str], log: Path, first: Callable[[], None] = lambda: None
) -> multiprocessing.Process:
    """The command line in a process of its own that has everything imported, what it says in a file."""

    def work() -> None:
        with log.open("a", buffering=1) as said:
            sys.stdout = sys.stderr = said
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            first()
            os._exit(cli.run(line))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no other thread is at work
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
    return process


def foveate(*arguments: object, ranks: int = 1) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    line = command(*arguments, ranks=ranks)
    return subprocess.run(line, capture_output=True, text=True, env=quiet(), check=False)
