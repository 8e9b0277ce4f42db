"""Whether selection finds what a question asks about, and whether the question matters to that.

The truth is the generator's: see foveate.patchqa.patches_of. One forward a batch tells what the selection of
a trained model reads; what it keeps, and what each expert alone would, follows from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from making import changed
from protocol import QUESTIONS, TEST_SEED, Run
from torch import Tensor

from foveate import Compressor, Context, VisualTokens, compress
from foveate.evaluate import encode
from foveate.hosts import reading
from foveate.patchqa import Example, PatchQA, patches_of

ASKED = 400  # of the test's questions, the first that ask about something there is
BATCH = 40
# What the selection of a trained model is set to, so that one alone decides.
EXPERTS = {
    "visual": {"balance": 1.0, "aggregate": "sum"},
    "native": {"balance": 0.0, "aggregate": "sum"},
}
BOTH = {"balance": 0.5, "aggregate": "sum"}


def finds(run_: Run, out: Path) -> dict[str, Any] | None:
    """What selection keeps of what a question asks about; None for a run without selection.

    recall   of own selection and of each expert alone at its budget: the share of the asked patches kept
    area     of each expert: the probability that it scores an asked patch above another
    swapped  the same, the question put to the model being the next one's, of another picture

    Each is a string of numbers, one a question, in the order of `sought`.
    """
    card = run_.recipe
    if card is None or card.method != "meteor" or card.arguments.get("only") == "fusion":
        return None
    model = reading.model(out).eval()
    processor = reading.processor(out)
    examples = sought()
    asked = torch.stack([torch.from_numpy(patches_of(e.asked[0])).flatten() for e in examples])
    selections = {"own": changed(card, out, {}).parts()[-1]}
    selections |= {name: changed(card, out, given).parts()[-1] for name, given in EXPERTS.items()}
    compress(model, changed(card, out, BOTH), card.positions)
    questions = [e.question for e in examples]
    own, swapped = (
        measured(model, processor, selections, examples, put, asked)
        for put in (questions, [*questions[1:], questions[0]])
    )
    return {"n": len(examples), "kept": own.pop("kept"), "patches": asked.shape[1], **own} | {
        "swapped": {name: swapped[name] for name in ("recall", "area")}
    }


def sought() -> list[Example]:
    """The first test questions that ask about something in the picture."""
    examples = PatchQA("test", seed=TEST_SEED).examples(QUESTIONS)
    return [e for e in examples if e.asked[0].any()][:ASKED]


def measured(
    model: Any,
    processor: Any,
    selections: dict[str, Compressor],
    examples: Sequence[Example],
    questions: Sequence[str],
    asked: Tensor,
) -> dict[str, Any]:
    """Recall of each selection and area of each expert, asked (n, P), these questions being put."""
    recall: dict[str, list[float]] = {name: [] for name in selections}
    areas: dict[str, list[float]] = {name: [] for name in EXPERTS}
    counts = set()
    for start in range(0, len(examples), BATCH):
        some = slice(start, start + BATCH)
        images = [e.images for e in examples[some]]
        tokens, context = read(model, processor, [*zip(images, questions[some], strict=True)])
        for name, selection in selections.items():
            left = selection(tokens, context)
            counts |= {(name, n) for n in left.counts.tolist()}
            recall[name] += shares(left.owner >= 0, asked[some])
        scores = model.model.visual_compressor.parts()[-1].experts(tokens, context)
        for name, score in zip(EXPERTS, scores, strict=True):
            areas[name] += [area(*pair) for pair in zip(score, asked[some], strict=True)]
    (kept,) = {n for _, n in counts}
    return {"kept": kept, "recall": _written(recall), "area": _written(areas)}


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


def shares(kept: Tensor, asked: Tensor) -> list[float]:
    """Of each row, which share of the asked patches is among the kept. kept, asked (B, P) bool."""
    return ((kept & asked).sum(1) / asked.sum(1)).tolist()


def area(score: Tensor, asked: Tensor) -> float:
    """The probability that an asked patch has a higher score than another, equal ones half. (P,), (P,)."""
    high, low = score[asked][:, None].double(), score[~asked][None].double()
    return float((high > low).double().mean() + (high == low).double().mean() / 2)


def _written(values: dict[str, list[float]]) -> dict[str, str]:
    return {name: " ".join(f"{v:.3f}" for v in some) for name, some in values.items()}
