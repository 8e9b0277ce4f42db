"""LLaVA-STF's claims on PatchQA: what is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from protocol import Page, Run

from foveate.train import RECIPES, Recipe

SEEDS = (0, 1, 2)
STEPS = 240
BEFORE_STEPS = 120  # of a first stage that trains the connector alone
RATE = 3e-4  # of the connectors, whose layers read four times as many channels as the projector's
HIDDEN = 128  # of the embedded projector; a warm start wants them for every place of a window
POSITIONS = "renumbered"  # as in the paper, for all rows with fewer tokens

Row = tuple[str, Mapping[str, Any]]  # a name of METHODS and its arguments
POOL = {"stride": 2, "dims": 2, "layer": 0}
MAIN: dict[str, Row] = {
    "baseline": ("identity", {}),
    "pool": ("pool", POOL),
    "stf": ("llava_stf", {"only": "stf"}),
    "mbtf": ("llava_stf", {"only": "mbtf"}),
    "stf_mbtf": ("llava_stf", {}),
}
OWN = "stf_mbtf"
WINDOWS: dict[str, Row] = {
    "pool_k3": ("pool", {**POOL, "stride": 3}),
    "pool_k4": ("pool", {**POOL, "stride": 4}),
    "stf_mbtf_k3": ("llava_stf", {"window": 3, "hidden": 9 * HIDDEN}),
    "stf_mbtf_k4": ("llava_stf", {"window": 4, "hidden": 16 * HIDDEN}),
}
# The embedded tower has four blocks to fuse, which is what OWN does.
BLOCKS: dict[str, Row] = {f"blocks{n}": ("llava_stf", {"blocks": n}) for n in (1, 2)}
COLD = f"{OWN}_cold"
STAGED = {f"{OWN}_two_stage": OWN}
ROWS = {
    **MAIN,
    **WINDOWS,
    **BLOCKS,
    COLD: MAIN[OWN],
    **{row: MAIN[of] for row, of in STAGED.items()},
}


def beside(row: str) -> str:
    """The row that an ablation differs from in one thing."""
    return STAGED.get(row, OWN)


def side_of(row: str) -> int:
    """The side of the windows that become one token each; 1 where all tokens stay."""
    method, arguments = ROWS[row]
    if method == "pool":
        return arguments["stride"]
    return (
        1 if method == "identity" or arguments.get("only") == "mbtf" else arguments.get("window", 2)
    )


def recipe(row: str, seed: int) -> Recipe:
    """A row's recipe."""
    (method, arguments), plain = ROWS[row], RECIPES["patchqa"]()
    card = replace(plain, seed=seed, steps=STEPS, method=method, arguments=dict(arguments))
    if method != "identity":
        card = replace(card, positions=POSITIONS)
    if method != "llava_stf":
        return card
    return replace(card, trains={**plain.trains, "compressor": RATE}, warm_start=row != COLD)


def _run(row: str, seed: int) -> Run:
    card, before = recipe(row, seed), None
    if row in STAGED:
        connector = {part: rate for part, rate in card.trains.items() if part != "language"}
        before = replace(card, trains=connector, steps=BEFORE_STEPS)
    return Run(f"{row}-seed{seed}", card, before=before)


def _runs() -> list[Run]:
    """The main rows, seed by seed, then one seed of all others."""
    main = [_run(row, seed) for seed in SEEDS for row in MAIN]
    return main + [_run(row, SEEDS[0]) for row in ROWS if row not in MAIN]


PAGE = Page("llava_stf", tuple(_runs()))
