"""LLaVA-Meteor's claims on PatchQA: what is run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import llava_stf
from finding import finds
from protocol import OWN, Ask, Page, Run

from foveate.train import RECIPES, Recipe

SEEDS = (0, 1, 2)
SIDE = 12  # of the grid of visual tokens
STEPS = 120
BEFORE_STEPS = 60  # of a first stage that trains the connector alone
KEEP = 36  # of 144, a quarter
SMALLER = (16, 7)  # 11 and 5 %
HIDDEN = 128  # of the embedded projector, as which the fusion begins

Row = tuple[str, Mapping[str, Any]]  # a name of METHODS and its arguments
SELECTION = {"only": "selection", "keep": KEEP}
# One narrow block: the published shape has more parameters than all of this small model's decoder.
BLOCK = {"depth": 1, "expand": 1, "states": 16}
BOTH = {"keep": KEEP, "hidden": HIDDEN, **BLOCK}
MAIN: dict[str, Row] = {
    "baseline": ("identity", {}),
    "pool": ("pool", llava_stf.POOL),
    "mlp_selection": ("meteor", SELECTION),
    "fusion_no_text": ("meteor", {**BOTH, "text": False}),
    "meteor": ("meteor", BOTH),
}
METEOR = "meteor"
LENT = ("baseline",)  # rows of LLaVolta's page
POOLED = ("pool", "pool_k3", "pool_k4")
EXPERTS: dict[str, Row] = {
    "visual": ("meteor", {**BOTH, "balance": 1.0}),
    "native": ("meteor", {**BOTH, "balance": 0.0}),
    **{name: ("meteor", {**BOTH, "aggregate": name}) for name in ("product", "max", "union")},
    "native_words": ("meteor", {**BOTH, "balance": 0.0, "similarity": "words"}),
    "words": ("meteor", {**BOTH, "similarity": "words"}),
    "random": ("random", {"keep": KEEP}),
}
BUDGETS: dict[str, Row] = {
    f"{row}_k{keep}": (method, {**arguments, "keep": keep})
    for keep in SMALLER
    for row, (method, arguments) in MAIN.items()
    if row in (METEOR, "mlp_selection")
}
SCANS: dict[str, Row] = {
    "scan_add": ("meteor", {**BOTH, "scan": "add"}),
    "scan_window": ("meteor", {**BOTH, "scan": "window"}),
    "forward_only": ("meteor", {**BOTH, "directions": "forward"}),
    "mamba1": ("meteor", {**BOTH, "operator": "mamba1"}),
    "depth2": ("meteor", {**BOTH, "depth": 2}),
    "wide": ("meteor", {**BOTH, "expand": 2, "states": 64}),
}
RANDOM_K, ALL, COLD = "random_k", "fusion_all", f"{METEOR}_cold"
STAGED = {f"{METEOR}_two_stage": METEOR}
LONG = {"mlp_selection_long": "mlp_selection", "meteor_long": METEOR}
LONGER = 4  # times the steps
REST: dict[str, Row] = {
    ALL: ("meteor", {"only": "fusion", "hidden": HIDDEN, **BLOCK}),
    RANDOM_K: ("meteor", {**BOTH, "sampled": [*SMALLER[::-1], KEEP]}),
    **{row: MAIN[of] for row, of in {**LONG, **STAGED}.items()},
    COLD: MAIN[METEOR],
    **{row: llava_stf.WINDOWS[row] for row in POOLED if row in llava_stf.WINDOWS},
}
ROWS = {**MAIN, **EXPERTS, **BUDGETS, **SCANS, **REST}
# The trained weights with another budget, or one expert alone, for the test alone.
OTHER_BUDGETS = tuple({"keep": keep} for keep in SMALLER)
ALONE = {"visual": {"balance": 1.0}, "native": {"balance": 0.0}}


def selects(row: str) -> bool:
    """Whether a row's method chooses tokens by the two experts."""
    method, arguments = ROWS[row]
    return method == "meteor" and arguments.get("only") != "fusion"


def fuses(row: str) -> bool:
    """Whether a row has a connector of its own."""
    method, arguments = ROWS[row]
    return method == "meteor" and arguments.get("only") != "selection"


def keep_of(row: str) -> int:
    """The tokens that a row's method leaves of an image."""
    method, arguments = ROWS[row]
    if method == "pool":
        return math.ceil(SIDE / arguments["stride"]) ** 2
    return arguments.get("keep", SIDE**2)


def beside(row: str) -> str:
    """The row that an ablation differs from in one thing."""
    near = {
        "meteor_long": "mlp_selection_long",
        ALL: "baseline",
        "random": "mlp_selection",
        "pool_k3": "pool",
        "pool_k4": "pool",
    }
    return near.get(row, "mlp_selection" if row.startswith("mlp_selection") else METEOR)


def recipe(row: str, seed: int) -> Recipe:
    """A row's recipe."""
    (method, arguments), plain = ROWS[row], RECIPES["patchqa"]()
    steps = STEPS * LONGER if row in LONG else STEPS
    card = replace(plain, seed=seed, steps=steps, method=method, arguments=dict(arguments))
    if row in POOLED:
        return replace(card, positions=llava_stf.POSITIONS)
    return replace(card, warm_start=fuses(row) and row != COLD)


def asks(row: str, seed: int) -> tuple[Ask, ...]:
    """What a row is asked with: its own method, and where it is a main one or draws its budget, more."""
    changes: list[Mapping[str, Any]] = []
    main = row in MAIN and selects(row) and seed == SEEDS[0]
    if row == RANDOM_K or main:
        changes += OTHER_BUDGETS
    if main:
        changes += ALONE.values()
    return (OWN, *(Ask(OWN.method, change) for change in changes))


def _run(row: str, seed: int) -> Run:
    card, before = recipe(row, seed), None
    if row in STAGED:
        connector = {part: rate for part, rate in card.trains.items() if part != "language"}
        before = replace(card, trains=connector, steps=BEFORE_STEPS)
    return Run(f"{row}-seed{seed}", card, asks(row, seed), before)


def _runs() -> list[Run]:
    """What matters most first: one seed of the main rows, experts and budgets, then the other seeds."""
    first, *others = SEEDS
    soon = [
        *MAIN,
        *(row for row in EXPERTS if row != "random"),
        *BUDGETS,
        "scan_add",
        "scan_window",
    ]
    runs = [_run(row, first) for row in soon]
    runs += [_run(row, seed) for seed in others for row in MAIN]
    return runs + [_run(row, first) for row in ROWS if row not in soon]


PAGE = Page("meteor", tuple(_runs()), lender="llavolta", measures={"finds": finds})
