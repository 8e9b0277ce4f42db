"""LLaVolta's claims on PatchQA: the rows of docs/llavolta.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from evidence import costs, figures
from evidence.estimates import NOT_RUN, Estimate, NotRun
from evidence.figures import Point
from evidence.protocol import SEEDS, Ask, Page, Row
from evidence.results import Found
from foveate import METHODS
from foveate.bench import CONFIGS, training_cost
from foveate.bench.count import Paper
from foveate.bench.table import Subject
from foveate.methods.llavolta import SCHEDULES
from foveate.train import RECIPES

# One small budget, 24 of 144 visual tokens from layer 1 of 6 on: the paper's layer 2 of 32, scaled.
SMALL = {
    "pool": ("average pooling", {"stride": 6, "layer": 1}),
    "random": ("random", {"keep": 24, "layer": 1}),
    "kmeans": ("k-means", {"keep": 24, "layer": 1}),
    "fastv": ("FastV", {"keep": 24, "layer": 1}),
    "vccattention": ("VCC-attention", {"keep": 24, "block": 16, "layer": 1}),
}
ONCE = ("heavy", "light")  # schedules of one seed
LONG, BEST = 240, "four_stage_wider_deeper"  # is it the length? With twice the steps
LAYERS, STRIDES = (0, 1, 2, 3, 4), (2, 4, 8, 16)
CURVE = {(k, s): {"stride": s, "layer": k} for k in LAYERS for s in STRIDES}
# Chen et al. 2024, arXiv:2406.20092, as METHODS quotes it: the mean of 13 benchmarks.
PAPER_SMALL = {
    "pool": (53.0, 60.4),
    "random": (47.3, 50.8),
    "kmeans": (54.0, 57.9),
    "fastv": (54.9, 57.0),
    "vccattention": (54.7, 58.5),
}
PAPER_STAGED = {
    "baseline": 61.8,
    "four_stage_wider_deeper": 61.8,
    "four_stage_deeper_wider": 61.9,
    "last_stage": 62.1,
    "heavy": 60.3,
}


def rows() -> tuple[Row, ...]:
    """Pooling without training, one small budget, the schedules, and two of them for longer."""
    plain = RECIPES["patchqa"]()
    tests = tuple(Ask(slug, arguments) for slug, (_, arguments) in SMALL.items())
    small = [
        Row(slug, called, replace(plain, method=slug, arguments=arguments), SEEDS)
        for slug, (called, arguments) in SMALL.items()
    ]
    cards = {name: RECIPES[f"llavolta_{name}_patchqa"]() for name in SCHEDULES}
    staged = [Row(n, f"`{n}`", card, (0,) if n in ONCE else SEEDS) for n, card in cards.items()]
    longer = {"baseline-long": plain, f"{BEST}-long": cards[BEST]}
    return (
        Row("embedded", "embedded", None, asks=tuple(Ask("pool", to) for to in CURVE.values())),
        Row("baseline", "none", plain, SEEDS, tests),
        *small,
        *staged,
        *(
            Row(name, name, replace(card, steps=LONG), baseline="baseline-long")
            for name, card in longer.items()
        ),
    )


class Small(NamedTuple):
    """A method at the small budget: for the test alone, trained, its gain, and pooling over it."""

    called: str
    alone: Found
    trained: Found
    gain: Estimate | NotRun
    under_pool: Estimate | NotRun
    paper: tuple[float, float]


class Schedule(NamedTuple):
    """What a schedule saves and where it ends."""

    row: Found
    compression: float
    cost: float
    time: float | NotRun
    large: Mapping[str, float]
    paper: float | None


def tells(page: Page, rows: Mapping[str, Found]) -> dict[str, Any]:
    """Methods at the small budget, schedules, and pooling by layer and stride."""
    bare = rows["baseline"]
    small = {}
    for slug, (called, arguments) in SMALL.items():
        alone, trained = bare.asked(slug, **arguments), rows[slug]
        gain, under = trained.to(alone), rows["pool"].to(trained)
        small[slug] = Small(called, alone, trained, gain, under, PAPER_SMALL[slug])
    large = {"baseline": {"compression": 1.0, "to_bare": 1.0}, **counted_7b(page)}
    staged = [schedule(rows[name], large[name]) for name in ("baseline", *SCHEDULES)]
    curve = {key: rows["embedded"].asked("pool", **given) for key, given in CURVE.items()}
    full = [rows[name] for name in SCHEDULES if name not in (*ONCE, "last_stage")]
    return {
        "small": small,
        "starts_lowest": min(small, key=lambda slug: small[slug].alone.accuracy.mean),
        "gains_most": max(small, key=lambda slug: small[slug].gain.mean),
        "staged": [s for s in staged if s is not None],
        "full": full,
        "nearest": max(full, key=lambda row: row.far.mean),
        "farthest": min(full, key=lambda row: row.far.mean),
        "curve": curve,
        "layers": LAYERS,
        "strides": STRIDES,
    }


def schedule(row: Found, large: Mapping[str, float]) -> Schedule | None:
    """What a schedule's training cost; None before it is run."""
    if not row.results:
        return None
    bare = row.baseline
    cost = next(iter(row.results.values()))["training"]["cost"]
    saved = (cost["bare_macs"] - cost["macs"]) / next(iter(bare.answers.values()))["language_macs"]
    seconds = [
        found["training"]["cpu_seconds"] / bare.results[seed]["training"]["cpu_seconds"]
        for seed, found in row.results.items()
        if seed in bare.results
    ]
    time = fmean(seconds) if seconds else NOT_RUN
    paper = PAPER_STAGED.get(row.row.name)
    return Schedule(row, cost["compression"], 1 - saved, time, large, paper)


def counted_7b(page: Page) -> dict[str, dict[str, float]]:
    """What the schedules cost in training at 7B, counted on the config of LLaVA-1.5-7B."""

    def count() -> dict[str, Any]:
        large = Subject("llava-1.5-7b", paper=Paper(CONFIGS["llava-1.5-7b"]))
        return {n: training_cost(large, METHODS["llavolta"](n)).as_dict() for n in SCHEDULES}

    return costs.once(page, "cost-llava-1.5-7b", SCHEDULES, count)


def draws(rows: Mapping[str, Found], path: Path) -> Path:
    """Pooling without training: a line for each layer that it stands before."""
    bare, found = rows["embedded"], {}
    for (layer, _), given in CURVE.items():
        asked = bare.asked("pool", **given)
        if asked.answers:
            point = Point(asked.mean("equivalent_tokens"), asked.accuracy._replace(half=0.0))
            found.setdefault(f"layer {layer}", []).append(point)
    return figures.lines(
        found,
        bare.accuracy._replace(half=0.0),
        path,
        tokens="visual tokens, mean over the decoder layers",
        below=found,
    )


PAGE = Page("llavolta", rows(), tells=tells, draws=draws)
