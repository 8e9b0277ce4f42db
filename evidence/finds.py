"""Whether LLaVA-Meteor's selection finds what a question asks about, and whether the question matters to it.

The truth is the generator's: see foveate.patchqa.patches_of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence.making import changed
from evidence.protocol import TEST_SEED, Page, Run
from evidence.seen import area, each, opened, shares, written
from foveate.patchqa import Example, patches_of
from foveate.tasks import examples
from foveate.train import Recipe

ASKED = 400  # of the test's questions, the first that ask about something there is
# What the selection of a trained model is set to, so that one expert alone decides.
EXPERTS = {
    "visual": {"balance": 1.0, "aggregate": "sum"},
    "native": {"balance": 0.0, "aggregate": "sum"},
}


def finds(page: Page, run: Run, out: Path) -> dict[str, Any] | None:
    """What selection keeps of what a question asks about; None for a run without selection.

    recall   of own selection and of each expert alone at its budget: the share of the asked patches kept
    area     of each expert: the probability that it scores an asked patch above another
    swapped  the same, the question put to the model being the next one's, of another picture

    Each is a string of numbers, one a question, in the order of `sought`.
    """
    card = run.recipe
    if card is None or card.method != "meteor" or card.arguments.get("only") == "fusion":
        return None
    some = sought(page)
    asked = torch.stack([torch.from_numpy(patches_of(e.asked[0])).flatten() for e in some])
    questions = [e.question for e in some]
    own, swapped = (
        measured(card, out, [(e.images, q) for e, q in zip(some, put, strict=True)], asked)
        for put in (questions, [*questions[1:], questions[0]])
    )
    kept = swapped.pop("kept")
    return {"n": len(some), "patches": asked.shape[1], **own, "kept": kept, "swapped": swapped}


def sought(page: Page) -> list[Example]:
    """The first test questions that ask about something in the picture."""
    some = examples("patchqa", page.questions, TEST_SEED)
    return [e for e in some if e.asked[0].any()][:ASKED]


def measured(
    card: Recipe, out: Path, asks: Sequence[tuple], asked: Tensor
) -> dict[str, dict[str, str] | int]:
    """Recall of each selection and area of each expert, asked (n, P), these questions being put."""
    recall, areas, counts = {}, {}, set()
    for name, given in {"own": {}, **EXPERTS}.items():
        model, processor = opened(out, changed(card, out, given), card.positions)
        lasts = [(steps[-1], i) for steps, i in each(model, processor, asks)]
        counts |= {int(step.after[i]) for step, i in lasts}
        recall[name] = written(shares(torch.stack([s.owner[i] for s, i in lasts]) >= 0, asked))
        if name in EXPERTS:
            scores = [step.scores[i] for step, i in lasts]
            areas[name] = written(area(*pair) for pair in zip(scores, asked, strict=True))
    (kept,) = counts
    return {"kept": kept, "recall": recall, "area": areas}
