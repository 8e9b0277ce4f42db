"""LLaVA-Meteor's claims on PatchQA: the rows of docs/meteor.md, and whether selection finds what is asked.

The truth of the latter is the generator's: see foveate.patchqa.patches_of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence import costs, figures
from evidence.llava_stf import pooled
from evidence.making import changed
from evidence.protocol import SEEDS, TEST_SEED, Page, Row, Run, own, twin
from evidence.results import Found
from evidence.seen import area, each, opened, shares, written
from foveate.patchqa import Example, patches_of
from foveate.patchqa.truth import LEAST
from foveate.tasks import examples
from foveate.train import Recipe

BEFORE_STEPS, LONG = 60, 480  # of a first stage that trains the connector alone; of the long rows
KEEP, SMALLER = 36, (16, 7)  # of 144: a quarter, 11 and 5 %
# One narrow block that begins as the embedded projector: the published shape has more parameters than all of
# this small model's decoder.
BLOCK = {"hidden": 128, "depth": 1, "expand": 1, "states": 16}
# The trained weights with another budget, or with one expert alone, for the test alone.
OTHER_BUDGETS = tuple(own(keep=keep) for keep in SMALLER)
ALONE = (own(balance=1.0), own(balance=0.0))
MAIN = ("baseline", "pool", "mlp_selection", "fusion_no_text", "meteor")
CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "visual": ("visual expert alone", {"balance": 1.0}),
    "native": ("native expert alone", {"balance": 0.0}),
    "product": ("product of the experts", {"aggregate": "product"}),
    "max": ("maximum of the experts", {"aggregate": "max"}),
    "union": ("union of the experts", {"aggregate": "union"}),
    "native_words": (
        "native expert alone, word by word",
        {"balance": 0.0, "similarity": "words"},
    ),
    "words": ("both experts, the native one word by word", {"similarity": "words"}),
    "scan_add": ("neighbours added (N steps)", {"scan": "add"}),
    "scan_window": ("neighbours walked through (9N steps)", {"scan": "window"}),
    "forward_only": ("forward alone", {"directions": "forward"}),
    "mamba1": ("Mamba-1", {"operator": "mamba1"}),
    "depth2": ("two blocks", {"depth": 2}),
    "wide": ("a block twice as wide, 64 states", {"expand": 2, "states": 64}),
}

ASKED = 400  # of the test's questions, the first that ask about something there is
# What the selection of a trained model is set to, so that one expert alone decides.
EXPERTS = {
    "visual": {"balance": 1.0, "aggregate": "sum"},
    "native": {"balance": 0.0, "aggregate": "sum"},
}


def fused(**arguments: Any) -> Recipe:
    """Fusion, begun as the projector and in its place, and what else the arguments say."""
    return replace(twin("meteor", **BLOCK, **arguments), warm_start=True)


def rows() -> tuple[Row, ...]:
    """A quarter of the tokens on all seeds; budgets, experts, scans and beginnings on one."""
    once = (*OTHER_BUDGETS, *ALONE)
    near = {"beside": "mlp_selection"}
    selected = twin("meteor", only="selection", keep=KEEP)
    bare = Row("baseline", "all tokens, the projector", twin(), SEEDS)
    pool = Row("pool", "average pooling", pooled(steps=120), SEEDS, **near)
    selection = Row("mlp_selection", "projector + selection", selected, SEEDS, once=once)
    silent = fused(keep=KEEP, text=False)
    meteor = Row("meteor", "LLaVA-Meteor", fused(keep=KEEP), SEEDS, once=once, **near)
    longer = selection.but(
        "mlp_selection_long",
        "projector + selection, four times the steps",
        replace(selected, steps=LONG),
    )
    drawn = meteor.but("random_k", "K drawn in training", sampled=[*SMALLER[::-1], KEEP])
    return (
        bare,
        pool,
        selection,
        Row("fusion_no_text", "fusion without text + selection", silent, SEEDS, once=once, **near),
        meteor,
        *(meteor.but(name, called, **given) for name, (called, given) in CHANGED.items()),
        selection.but("random", "projector + random tokens", twin("random", keep=KEEP)),
        bare.but("fusion_all", "fusion, all tokens", fused(only="fusion")),
        longer,
        longer.but(
            "meteor_long",
            "LLaVA-Meteor, four times the steps",
            replace(meteor.recipe, steps=LONG),
        ),
        *_beginnings(meteor),
        *(pool.but(f"pool_k{k}", f"average pooling, k = {k}", stride=k) for k in (3, 4)),
        *(
            row.but(f"{row.name}_k{keep}", f"{row.called}, K = {keep}", keep=keep)
            for keep in SMALLER
            for row in (selection, meteor)
        ),
        replace(drawn, asks=OTHER_BUDGETS),
    )


def _beginnings(meteor: Row) -> tuple[Row, ...]:
    """The connector alone first, or no warm start."""
    connector = {part: rate for part, rate in meteor.recipe.trains.items() if part != "language"}
    first = replace(meteor.recipe, trains=connector, steps=BEFORE_STEPS)
    cold = replace(meteor.recipe, warm_start=False)
    return (
        replace(meteor.but("meteor_two_stage", "two stages"), before=first),
        meteor.but("meteor_cold", "begun cold", cold),
    )


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


def tells(page: Page, rows: Mapping[str, Found]) -> dict[str, Any]:
    """The tables' rows, what connectors cost, and whether the question matters to what is kept."""
    looking = ("mlp_selection", "meteor", "visual", "native", "native_words", "words")
    kept = [rows["meteor"].sample("finds", *put, "recall", "own") for put in ((), ("swapped",))]
    return {
        "main": [rows[name] for name in MAIN],
        "others": [r for name, r in rows.items() if name not in MAIN and "_k" not in name],
        "looking": [rows[name] for name in looking],
        "scans": [rows[name] for name in ("scan_add", "scan_window", "forward_only", "mamba1")],
        "connectors": costs.connectors(page),
        "moved": (kept[0] - kept[1]).estimate(),
        "least": LEAST,
        "asked": ASKED,
    }


def draws(rows: Mapping[str, Found], path: Path) -> Path:
    """A line a method over the budgets that it was trained at, and one for a budget drawn in training."""
    drawn, some = rows["random_k"], {}
    for name, keeps in (("pool", (3, 4)), ("mlp_selection", SMALLER), ("meteor", SMALLER)):
        trained = [rows[name], *(rows[f"{name}_k{k}"] for k in keeps)]
        some[rows[name].called] = figures.points(trained)
    some[drawn.called] = figures.points([drawn, *(drawn.asked(keep=k) for k in SMALLER)])
    return figures.lines(some, rows["baseline"].accuracy, path)


PAGE = Page(
    "meteor", rows(), lender="llavolta", measures={"finds": finds}, tells=tells, draws=draws
)
