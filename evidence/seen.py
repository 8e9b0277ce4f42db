"""What a trained method does to pictures whose every pixel is known: what the measures have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidence.making import BATCH
from evidence.protocol import TEST_SEED
from foveate import Compressor, Step, compress, trace
from foveate.evaluate import encode
from foveate.hosts import reading
from foveate.patchqa import DIGIT_REGION, SIGN_REGION, PatchQA, patches_of
from foveate.tasks import TASKS
from foveate.train import Recipe

KINDS = ("text", "object", "background")  # text is a sign or a digit


def task_of(recipe: Recipe) -> PatchQA:
    """The scenes of the test, as large as those that a recipe trains on."""
    return PatchQA("test", seed=TEST_SEED, **TASKS[recipe.data])


def opened(out: Path, method: Compressor, positions: str) -> tuple[Any, Any]:
    """A trained model under a method, and its processor."""
    model = reading.model(out).eval()
    return compress(model, method, positions), reading.processor(out)


@torch.inference_mode()
def looked(model: Any, processor: Any, asks: Sequence[tuple]) -> list[Step]:
    """What became of each image, a step for each sampler, when these questions are put."""
    batch, words = encode(processor, asks)
    with trace(model) as seen:
        model(**batch, instruction_mask=words, logits_to_keep=1)
    return seen.steps


def each(model: Any, processor: Any, asks: Sequence[tuple]) -> Iterator[tuple[list[Step], int]]:
    """The same a batch at a time, with the row of each question."""
    for start in range(0, len(asks), BATCH):
        steps = looked(model, processor, asks[start : start + BATCH])
        yield from ((steps, i) for i in range(len(steps[0].owner)))


def area(score: Tensor, asked: Tensor) -> float:
    """The probability that an asked patch has a higher score than another, equal ones half. (P,), (P,)."""
    high, low = score[asked][:, None].double(), score[~asked][None].double()
    return float((high > low).double().mean() + (high == low).double().mean() / 2)


def shares(kept: Tensor, asked: Tensor) -> list[float]:
    """Of each row, which share of the asked patches is among the kept. kept, asked (B, P) bool."""
    return ((kept & asked).sum(1) / asked.sum(1)).tolist()


def kinds(regions: np.ndarray, side: int) -> np.ndarray:
    """(rows, columns) the number in KINDS of each patch of side × side pixels; text goes before objects."""
    written = np.where(regions >= DIGIT_REGION, np.minimum(regions, SIGN_REGION), 0)
    text, thing = (patches_of(of, side) for of in (written, np.where(written, 0, regions)))
    return np.where(text, 0, np.where(thing, 1, 2))


def laid(values: Tensor, grid: Tensor, view: int) -> np.ndarray:
    """A value for each patch on the grid of one view. values (P,), grid (P, 3) → (rows, columns)."""
    here = grid[:, 0] == view
    cells = (grid[here, 1:] - grid[here, 1:].amin(0)).numpy()  # joined tiles begin behind a border
    found = np.zeros(cells.max(0) + 1, dtype=values.numpy().dtype)
    found[tuple(cells.T)] = values[here].numpy()
    return found


def map_of(grid: Tensor) -> int:
    """The view that falls into regions: the last, that of joined tiles, or the only one. grid (P, 3)."""
    return int(grid[:, 0].max())


def written(values: Iterable[float]) -> str:
    """Shares as a result file has them."""
    return " ".join(f"{value:.3f}" for value in values)
