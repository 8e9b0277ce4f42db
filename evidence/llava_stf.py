"""LLaVA-STF's claims on PatchQA: the rows of docs/llava_stf.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from evidence import costs, figures
from evidence.protocol import SEEDS, Page, Row, twin
from evidence.results import Found
from foveate.train import Recipe

STEPS = 240
BEFORE_STEPS = 120  # of a first stage that trains the connector alone
RATE = 3e-4  # of the connectors, whose layers read four times as many channels as the projector's
HIDDEN = 128  # of the embedded projector; a warm start wants them for every place of a window
MAIN = ("baseline", "pool", "stf", "mbtf", "stf_mbtf")
# Tang and Shen 2025, arXiv:2506.07138, as METHODS quotes it; MME, which lacks a row, left out.
BENCHMARKS = ("VQAv2", "GQA", "VizWiz", "SQA", "TextVQA", "POPE", "MMB", "MMB-CN")
PAPER = {
    "baseline": (78.5, 62.0, 50.0, 66.8, 58.2, 85.9, 64.3, 58.3),
    "pool": (77.0, 62.1, 44.0, 69.8, 55.5, 86.3, 65.0, 57.9),
    "stf_mbtf": (78.1, 61.9, 51.1, 70.5, 57.4, 86.0, 66.2, 58.9),
}


def pooled(steps: int = STEPS) -> Recipe:
    """Average pooling of 2 × 2, positions counted anew as the paper does behind its fusion."""
    return replace(twin("pool", steps, stride=2, dims=2, layer=0), positions="renumbered")


def fused(**arguments: Any) -> Recipe:
    """LLaVA-STF's connector, begun as the projector with average pooling behind it."""
    plain = twin("llava_stf", STEPS, **arguments)
    rates = {**plain.trains, "compressor": RATE}
    return replace(plain, trains=rates, positions="renumbered", warm_start=True)


def rows() -> tuple[Row, ...]:
    """A quarter of the tokens on all seeds; windows, blocks and beginnings on one."""
    own = fused()
    connector = {part: rate for part, rate in own.trains.items() if part != "language"}
    first = replace(own, trains=connector, steps=BEFORE_STEPS)
    pool = Row("pool", "average pooling", pooled(), SEEDS)
    both = Row("stf_mbtf", "STF + MBTF", own, SEEDS, beside="pool")
    wide = {k: {"window": k, "hidden": k * k * HIDDEN} for k in (3, 4)}
    staged = both.but("stf_mbtf_two_stage", "STF + MBTF, two stages")
    return (
        Row("baseline", "all tokens, the projector", twin(steps=STEPS), SEEDS),
        pool,
        Row("stf", "STF", fused(only="stf"), SEEDS, beside="pool"),
        Row("mbtf", "MBTF", fused(only="mbtf"), SEEDS, beside="pool"),
        both,
        *(pool.but(f"pool_k{k}", f"average pooling, k = {k}", stride=k) for k in (3, 4)),
        *(both.but(f"stf_mbtf_k{k}", f"STF + MBTF, k = {k}", **wide[k]) for k in (3, 4)),
        # The embedded tower has four blocks to fuse, which is what STF + MBTF does.
        both.but("blocks1", "STF + MBTF of 1 block", blocks=1),
        both.but("blocks2", "STF + MBTF of 2 blocks", blocks=2),
        both.but("stf_mbtf_cold", "STF + MBTF, begun cold", replace(own, warm_start=False)),
        replace(staged, before=first),
    )


def tells(page: Page, rows: Mapping[str, Found]) -> dict[str, Any]:
    """The tables' rows, what connectors cost, and how far the paper's rows are from its baseline."""
    bench = page.root / "results" / "bench-llava_stf-7b.json"
    cells = {cell["method"]: cell["macs"] for cell in json.loads(bench.read_text())["cells"]}
    far = {
        name: [own - bare for own, bare in zip(PAPER[name], PAPER["baseline"], strict=True)]
        for name in ("pool", "stf_mbtf")
    }
    return {
        "main": [rows[name] for name in MAIN],
        "others": [row for name, row in rows.items() if name not in MAIN],
        "connectors": costs.connectors(page),
        "large": cells["llava_stf"],
        "large_bare": cells["identity"],
        "benchmarks": BENCHMARKS,
        "paper": far,
        "paper_mean": {name: fmean(distances) for name, distances in far.items()},
    }


def draws(rows: Mapping[str, Found], path: Path) -> Path:
    """A line for pooling and one for LLaVA-STF, over three sizes of windows."""
    found = {
        rows[name].called: figures.points(rows[f"{name}{k}"] for k in ("", "_k3", "_k4"))
        for name in ("pool", "stf_mbtf")
    }
    return figures.lines(found, rows["baseline"].accuracy, path)


PAGE = Page("llava_stf", rows(), tells=tells, draws=draws)
