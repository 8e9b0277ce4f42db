"""FocusLLaVA's claims on PatchQA: what is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import focusllava_tiles as tiles
import llava_stf
from focusllava_guides import guides
from focusllava_samples import samples
from protocol import OWN, Ask, Page, Run

from foveate.train import RECIPES, Recipe

SEEDS = (0, 1, 2)
SIDE = 12  # of the grid of visual tokens
LAYERS = 6  # of the language model
HALF = 3  # the paper's layer 16 of 32
STEPS, LONGER = 120, 2  # and how many times as many the long rows take
KEEP = 0.5  # ρ, of the tokens that reach the text-guided sampler
KEEPS = (0.25, 0.5, 0.75)

RATE = 1e-3  # of the router
BALANCE, BALANCES = 0.1, (0.0, 0.01, 0.1, 0.3)

Row = tuple[str, Mapping[str, Any]]  # a name of METHODS and its arguments
SAMPLER = {"balance": BALANCE}  # of every router
VISION = {"only": "vision", **SAMPLER}
GUIDED = {"keep": KEEP, "sampled": [0.3, 1.0]}
BOTH = {**GUIDED, **SAMPLER}
MAIN: dict[str, Row] = {
    "baseline": ("identity", {}),
    "vision": ("focusllava", VISION),
    "text": ("focusllava", {"only": "text", **GUIDED}),
    "both": ("focusllava", BOTH),
}
FOCUS = "both"
GUIDANCE: dict[str, Row] = {  # by layer, what FOCUS does at HALF
    f"layer{layer}": ("focusllava", {**BOTH, "layer": layer})
    for layer in range(1, LAYERS)
    if layer != HALF
}
BY_LAYER = {row: arguments["layer"] for row, (_, arguments) in GUIDANCE.items()} | {FOCUS: HALF}
ROUTER: dict[str, Row] = {
    **{
        f"balance{round(100 * weight)}": ("focusllava", {**BOTH, "balance": weight})
        for weight in BALANCES
        if weight != BALANCE
    },
    "gate_chosen": ("focusllava", {**BOTH, "gate": "chosen"}),
    "no_explore": ("focusllava", {**BOTH, "explore": False}),
    "region8": ("focusllava", {**BOTH, "region": 8}),
}
FIXED: dict[str, Row] = {  # ρ is not drawn in training
    f"rho{round(100 * keep)}": ("focusllava", {**BOTH, "keep": keep, "sampled": None})
    for keep in KEEPS
}
FORCED: dict[str, Row] = {  # one scale everywhere
    f"max{scale}": ("focusllava", {"only": "vision", "scales": [scale]}) for scale in (2, 4)
}
SIMPLE: dict[str, Row] = {
    **FORCED,
    "pool": ("pool", llava_stf.POOL),
    "random": ("random", {"keep": KEEP, "layer": HALF}),
}
LENT = ("pool",)  # rows of LLaVA-Meteor's page
ABLATIONS = {**ROUTER, **FIXED, **SIMPLE}
# The same from the embedded model as it comes, which knows the task, and for longer.
TUNED, LONG = ({f"{row}_{how}": row for row in MAIN if row != "text"} for how in ("tuned", "long"))
ELSEWHERE: dict[str, Row] = {row: MAIN[of] for row, of in {**TUNED, **LONG}.items()}
ROWS = {**MAIN, **GUIDANCE, **ABLATIONS, **ELSEWHERE}
ALL = {**ROWS, **tiles.ROWS}  # at four times as many pixels too
# Of the ablations, one seed each, those that are made before the other seeds of the main rows.
SOON = ("max2", *GUIDANCE, "rho50", *ROUTER, "random")


def routes(row: str) -> bool:
    """Whether a row's method chooses among scales."""
    method, arguments = ALL[row]
    return method == "focusllava" and "scales" not in arguments and arguments.get("only") != "text"


def guided(row: str) -> bool:
    """Whether a row's method keeps what the question looks at."""
    method, arguments = ALL[row]
    return method == "focusllava" and arguments.get("only") != "vision"


def cut(method: str, arguments: Mapping[str, Any]) -> int:
    """The decoder layer before which tokens go, 0 where all that go do so before the language model."""
    inside = method == "focusllava" and arguments.get("only") != "vision"
    return arguments.get("layer", HALF if inside else 0)


def beside(row: str) -> str:
    """The row that an ablation differs from in one thing."""
    near = {"max2": "vision", "max4": "max2", "pool": "max2", "random": "text"}
    return near.get(row, FOCUS)


def recipe(row: str, seed: int) -> Recipe:
    """A row's recipe."""
    (method, arguments), plain = ROWS[row], RECIPES["patchqa"]()
    steps, shrink = STEPS * (LONGER if row in LONG else 1), 1.0 if row in TUNED else plain.shrink
    card = replace(plain, seed=seed, steps=steps, method=method, arguments=dict(arguments))
    card = replace(card, shrink=shrink)
    if method == "pool":
        return replace(card, positions=llava_stf.POSITIONS)
    return replace(card, trains={**plain.trains, "compressor": RATE}) if routes(row) else card


# For the test alone, of a model that was trained without compression.
UNTRAINED = {
    "text_untrained": {
        k: Ask("focusllava", {"only": "text", "keep": k, "layer": HALF}) for k in KEEPS
    },
    "fastv_untrained": {k: Ask("fastv", {"keep": k, "layer": HALF}) for k in KEEPS},
}
# The trained weights, with another ρ for the test alone.
ASKED_AT = {
    "text": {k: OWN if k == KEEP else Ask(OWN.method, {"keep": k}) for k in KEEPS},
    FOCUS: {k: OWN if k == KEEP else Ask(OWN.method, {"keep": k}) for k in (*KEEPS, 1.0)},
}
# The trained router, with a price on tokens for the test alone.
PRICED = {"vision": (0.5, 1.0, 2.0), **tiles.PRICED}


def at_price(price: float) -> Ask:
    """The trained weights at this price."""
    return Ask(OWN.method, {"price": price})


def asks(row: str) -> tuple[Ask, ...]:
    """What a row is asked with: its own method, and more."""
    if row == "baseline":
        return (OWN, *(ask for by_keep in UNTRAINED.values() for ask in by_keep.values()))
    more = [ask for ask in ASKED_AT.get(row, {}).values() if ask is not OWN]
    return (OWN, *more, *map(at_price, PRICED.get(row, ())))


def _run(row: str, seed: int) -> Run:
    return Run(f"{row}-seed{seed}", recipe(row, seed), asks(row))


def _runs() -> list[Run]:
    """What matters most first."""
    first, *others = SEEDS
    late = [row for row in ABLATIONS if row not in (*SOON, *LENT)]
    runs = [_run(row, first) for row in (*MAIN, *SOON)]
    runs += [_run(row, seed) for seed in others for row in MAIN]
    runs += tiles.RUNS.values()
    runs += [_run(row, first) for row in (*ELSEWHERE, *late)]
    return runs + [_run(row, seed) for row in LENT for seed in SEEDS]


PAGE = Page(
    "focusllava",
    tuple(_runs()),
    lender="meteor",
    measures={"samples": samples, "guides": guides},
)
