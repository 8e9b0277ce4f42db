"""LLaVolta's claims on PatchQA: the rows of docs/llavolta.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from evidence import costs, figures
from evidence.estimates import NOT_RUN
from evidence.figures import Point
from evidence.protocol import SEEDS, Ask, Page, Row, twin
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
    tests = tuple(Ask(slug, arguments) for slug, (_, arguments) in SMALL.items())
    bare = Row("baseline", "none", twin(), SEEDS, tests)
    cards = {name: RECIPES[f"llavolta_{name}_patchqa"]() for name in SCHEDULES}
    longer = {"baseline-long": twin(), f"{BEST}-long": cards[BEST]}
    return (
        Row("embedded", "embedded", None, asks=tuple(Ask("pool", to) for to in CURVE.values())),
        bare,
        *(Row(slug, called, twin(slug, **to), SEEDS) for slug, (called, to) in SMALL.items()),
        *(Row(n, f"`{n}`", card, (0,) if n in ONCE else SEEDS) for n, card in cards.items()),
        *(
            Row(name, name, replace(card, steps=LONG), baseline="baseline-long")
            for name, card in longer.items()
        ),
    )


def tells(page: Page, rows: Mapping[str, Found]) -> dict[str, Any]:
    """Methods at the small budget, schedules, and pooling by layer and stride."""
    small = {slug: small_budget(slug, rows) for slug in SMALL}
    large = {"baseline": {"compression": 1.0, "to_bare": 1.0}, **counted_7b(page)}
    full = [rows[name] for name in SCHEDULES if name not in (*ONCE, "last_stage")]
    return {
        "small": small,
        "starts_lowest": min(small, key=lambda slug: small[slug]["alone"].accuracy.mean),
        "gains_most": max(small, key=lambda slug: small[slug]["gain"].mean),
        "staged": [schedule(rows[name], large[name]) for name in ("baseline", *SCHEDULES)],
        "full": full,
        "nearest": max(full, key=lambda row: row.far.mean),
        "farthest": min(full, key=lambda row: row.far.mean),
        "curve": {key: rows["embedded"].asked("pool", **given) for key, given in CURVE.items()},
        "layers": LAYERS,
        "strides": STRIDES,
    }


def small_budget(slug: str, rows: Mapping[str, Found]) -> dict[str, Any]:
    """A method for the test alone and trained, what training brings, and pooling over it."""
    trained, (called, arguments) = rows[slug], SMALL[slug]
    alone = rows["baseline"].asked(slug, **arguments)
    return {
        "called": called,
        "alone": alone,
        "trained": trained,
        "gain": trained.to(alone),
        "under_pool": rows["pool"].to(trained),
        "paper": PAPER_SMALL[slug],
    }


def schedule(row: Found, large: Mapping[str, float]) -> dict[str, Any]:
    """What a schedule's training costs, here and at 7B, and where it ends in the paper."""
    cost = next(iter(row.told("training", "cost").values()), NOT_RUN)
    saved = (cost["bare_macs"] - cost["macs"]) / row.baseline.mean("language_macs")
    own, bare = (of.told("training", "cpu_seconds") for of in (row, row.baseline))
    seconds = [own[seed] / bare[seed] for seed in own.keys() & bare.keys()]
    return {
        "row": row,
        "compression": cost["compression"],
        "cost": 1 - saved,
        "time": fmean(seconds) if seconds else NOT_RUN,
        "large": large,
        "paper": PAPER_STAGED.get(row.row.name),
    }


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
