"""Whether LLaVA-Meteor's selection finds what a question asks about, and whether the question matters to it.

The truth is the generator's: see foveate.patchqa.patches_of. One forward a batch tells what the selection of
a trained model reads; what it keeps, and what each expert alone would, follows from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence.making import BATCH, changed
from evidence.protocol import TEST_SEED, Page, Run
from evidence.seen import area, opened, shares, written
from foveate import Compressor, Context, VisualTokens
from foveate.evaluate import encode
from foveate.patchqa import Example, patches_of
from foveate.tasks import examples

ASKED = 400  # of the test's questions, the first that ask about something there is
# What the selection of a trained model is set to, so that one alone decides.
EXPERTS = {
    "visual": {"balance": 1.0, "aggregate": "sum"},
    "native": {"balance": 0.0, "aggregate": "sum"},
}
BOTH = {"balance": 0.5, "aggregate": "sum"}


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
    model, processor = opened(out, changed(card, out, BOTH), card.positions)
    given = {"own": {}, **EXPERTS}
    selections = {name: changed(card, out, to).parts()[-1] for name, to in given.items()}
    some = sought(page)
    asked = torch.stack([torch.from_numpy(patches_of(e.asked[0])).flatten() for e in some])
    questions = [e.question for e in some]
    own, swapped = (
        measured(model, processor, selections, some, put, asked)
        for put in (questions, [*questions[1:], questions[0]])
    )
    return {"n": len(some), "kept": own.pop("kept"), "patches": asked.shape[1], **own} | {
        "swapped": {name: swapped[name] for name in ("recall", "area")}
    }


def sought(page: Page) -> list[Example]:
    """The first test questions that ask about something in the picture."""
    some = examples("patchqa", page.questions, TEST_SEED)
    return [e for e in some if e.asked[0].any()][:ASKED]


def measured(
    model: Any,
    processor: Any,
    selections: Mapping[str, Compressor],
    some: Sequence[Example],
    questions: Sequence[str],
    asked: Tensor,
) -> dict[str, Any]:
    """Recall of each selection and area of each expert, asked (n, P), these questions being put."""
    recall: dict[str, list[float]] = {name: [] for name in selections}
    areas: dict[str, list[float]] = {name: [] for name in EXPERTS}
    counts = set()
    for start in range(0, len(some), BATCH):
        now = slice(start, start + BATCH)
        images = [e.images for e in some[now]]
        tokens, context = read(model, processor, [*zip(images, questions[now], strict=True)])
        for name, selection in selections.items():
            left = selection(tokens, context)
            counts |= {(name, n) for n in left.counts.tolist()}
            recall[name] += shares(left.owner >= 0, asked[now])
        scores = model.model.visual_compressor.parts()[-1].experts(tokens, context)
        for name, score in zip(EXPERTS, scores, strict=True):
            areas[name] += [area(*pair) for pair in zip(score, asked[now], strict=True)]
    (kept,) = {n for _, n in counts}
    told = {"recall": recall, "area": areas}
    return {"kept": kept} | {
        what: {name: written(values) for name, values in by_name.items()}
        for what, by_name in told.items()
    }


@torch.inference_mode()
def read(model: Any, processor: Any, asks: Sequence[tuple]) -> tuple[VisualTokens, Context]:
    """What the last compressor of a model is given when these questions are put; a row a question."""
    given: list[tuple[VisualTokens, Context]] = []
    last = model.model.visual_compressor.parts()[-1]
    handle = last.register_forward_pre_hook(lambda _, args: given.append(args))
    batch, words = encode(processor, asks)
    try:
        model(**batch, instruction_mask=words, logits_to_keep=1)
    finally:
        handle.remove()
    (found,) = given
    return found
