"""Whether the question decides where Fovea looks: its weights beside the truth, and others in their place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from evidence.guides import SCENES, Two, scenes_of
from evidence.making import BATCH, own_method
from evidence.protocol import TEST_SEED, Page, Run
from evidence.seen import area, each, opened, task_of, written
from foveate import Compressor, Context, Fovea, Step, VisualTokens
from foveate.evaluate import evaluate
from foveate.evaluate.baselines import Misled
from foveate.evaluate.recall import holding
from foveate.hosts import reading
from foveate.methods.fovea import FLOOR
from foveate.patchqa import Example, patches_of
from foveate.tasks import examples

BUDGETS = (36, 18, 9)


class Known(Fovea):
    """Fovea with weights that somebody knows instead of a scorer's: share (B, N) of a look."""

    share: Tensor

    def weight(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) as given, one in the mean."""
        return self.share * tokens.counts[:, None] + FLOOR


def looks(page: Page, run: Run, out: Path, scenes: int = SCENES) -> dict[str, Any] | None:
    """What a scorer of the question knows; None of runs without one.

    area     of two questions on one scene, the probability that an asked patch weighs more than another
    other    the same when the other question is put
    cells    by budget, the mean size in patches of the cells that hold what is asked
    another  by budget, a 1 or 0 for every test question: the scorer reads the question of another scene
    oracle   the same with even weights on what is asked, as the generator knows it, and nothing elsewhere
    """
    card = run.recipe
    if card is None or card.method != "fovea" or card.arguments.get("weights") != "question":
        return None
    method, questions = own_method(out), examples(card.data, page.questions, TEST_SEED)
    return {
        **weighed(out, method, scenes_of(task_of(card), scenes), card.positions),
        "another": {str(n): _right(out, questions, [Misled(method.but(keep=n))]) for n in BUDGETS},
        "oracle": {str(n): _right(out, questions, known(method, questions, n)) for n in BUDGETS},
    }


def weighed(out: Path, method: Compressor, scenes: Sequence[Two], positions: str) -> dict[str, Any]:
    """Area and other, a number a scene; the mean cells of what is asked by budget."""
    found, cells = defaultdict(list), {}
    for n in BUDGETS:
        model, processor = opened(out, method.but(keep=n), positions)
        both = [
            each(model, processor, [((s.image,), s.questions[q]) for s in scenes]) for q in (0, 1)
        ]
        sizes = []
        for scene, (one, i), (other, _) in zip(scenes, *both, strict=True):
            pair = (one[0], other[0])
            asked = [holding(regions, pair[0].grid[i]) for regions in scene.asked]
            sizes.append(fmean(_cells(s, i, of) for s, of in zip(pair, asked, strict=True)))
            if n == BUDGETS[0]:
                for name, steps in (("area", pair), ("other", pair[::-1])):
                    marks = [area(s.scores[i], of) for s, of in zip(steps, asked, strict=True)]
                    found[name].append(fmean(marks))
        cells[str(n)] = written(sizes)
    return {**{name: written(values) for name, values in found.items()}, "cells": cells}


def _cells(step: Step, i: int, asked: Tensor) -> float:
    """The mean size of the cells of these patches."""
    return float(step.owner[i].bincount()[step.owner[i][asked]].float().mean())


def known(method: Compressor, questions: Sequence[Example], keep: int) -> list[Compressor]:
    """For each batch of questions, the method with the generator's weights; even where nothing is asked."""
    asked = torch.stack(
        [torch.from_numpy(patches_of(q.asked[0])).flatten() for q in questions]
    ).float()
    asked = torch.where(asked.any(1, keepdim=True), asked, 1.0)
    told = []
    for share in (asked / asked.sum(1, keepdim=True)).split(BATCH):
        one = Known(**{**method.arguments(), "keep": keep})
        one.load_state_dict(method.state_dict())
        one.share = share
        told.append(one.eval())
    return told


def _right(out: Path, questions: Sequence[Example], methods: Sequence[Compressor]) -> str:
    """A 1 or 0 for every question, with one method or one for each batch."""
    model, processor = reading.model(out).eval(), reading.processor(out)
    size = len(questions) if len(methods) == 1 else BATCH
    found: list[str] = []
    for i, method in enumerate(methods):
        some = questions[i * size : (i + 1) * size]
        told = evaluate(model, processor, method, task=some, limit=len(some), batch_size=BATCH)
        found += [str(int(told["answers"][q.key]["right"])) for q in some]
    return " ".join(found)
