"""Fovea on PatchQA: the rows of docs/fovea.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evidence import figures
from evidence.looks import looks
from evidence.protocol import SEEDS, Ask, Page, Row, own
from evidence.results import Found
from foveate.evaluate.results import USUAL
from foveate.train import RECIPES, Recipe

STEPS = 240
BUDGETS = (72, 36, 18, 9, 4)
STRIDES = (1, 2, 3, 4, 6)  # of average pooling: 144, 36, 16, 9 and 4 tokens
MAIN = ("fovea", "even", "grid", "pool", "divprune")
DRAWN = {"sampled": [0.05, 1.0]}
EVEN = {"weights": "even", "vector": "mean", **DRAWN}
# For the test alone, on the finished model.
UNTRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "DivPrune": ("divprune", {}),
    "Fovea": ("fovea", {}),
    "Fovea, class attention": ("fovea", {"weights": "attention"}),
    "Fovea, medoids": ("fovea", {"vector": "medoid"}),
    "Fovea, means": ("fovea", {"vector": "mean"}),
}


def twin() -> Recipe:
    """The recipe in small, cut short; products in bfloat16, which this machine multiplies faster."""
    return replace(RECIPES["fovea_patchqa"](), steps=STEPS, bf16=True)


def other(method: str, **arguments: Any) -> Recipe:
    """Another method, trained and taught alike; where to look is nothing it could be taught."""
    return replace(twin(), method=method, arguments=arguments, attend=0.0)


def rows() -> tuple[Row, ...]:
    """Fovea and what it is to be compared with on all seeds; one thing changed on one."""
    bare = Row("baseline", "all tokens", replace(other("identity"), distill=0.0, full=0.0), SEEDS)
    budgets = tuple(own(keep=n) for n in (1.0, 72, 18, 9, 4))
    strides = tuple(own(stride=n) for n in STRIDES if n != 2)
    main = Row("fovea", "Fovea", twin(), SEEDS, budgets, beside="even")
    even = Row("even", "without the question", other("fovea", keep=36, **EVEN), SEEDS, budgets)
    grid = other("fovea", keep=36, **EVEN, splits="size")
    pool = other("pool", stride=2, dims=2, sampled=[*STRIDES])
    prune = other("divprune", keep=36, **DRAWN)
    asked = tuple(
        Ask(method, {"keep": n, **given}) for method, given in UNTRAINED.values() for n in BUDGETS
    )
    return (
        Row("finished", "the finished model", None, asks=asked, beside="finished"),
        bare,
        main,
        replace(even, beside="fovea"),
        Row("grid", "a fixed grid", grid, SEEDS, budgets, beside="fovea"),
        Row("pool", "average pooling", pool, SEEDS, strides, beside="fovea"),
        Row("divprune", "DivPrune", prune, SEEDS, budgets, beside="fovea"),
        *changed(main),
    )


def changed(main: Row) -> list[Row]:
    """One thing of the training or of the tokens changed, on one seed."""
    card = main.recipe
    scorer = {"projector": card.trains["projector"], "language": card.trains["language"]}
    recipes = {
        "attend0": ("attention teaches nothing", {"attend": 0.0}),
        "attend1": ("attention teaches twice as much", {"attend": 1.0}),
        "distill0": ("no self-distillation", {"distill": 0.0}),
        "full0": ("all tokens not learnt beside", {"full": 0.0}),
        "plain": ("its own loss alone", {"distill": 0.0, "full": 0.0, "attend": 0.0}),
        "sizeless": ("cells without their size", {"trains": {**scorer, "*.scorer.*": 1e-3}}),
        "renumbered": ("positions renumbered", {"positions": "renumbered"}),
    }
    found = [
        main.but(name, called, replace(card, **given)) for name, (called, given) in recipes.items()
    ]
    found.append(
        main.but(
            "attention",
            "class attention for the question",
            replace(card, attend=0.0),
            weights="attention",
        )
    )
    found.append(main.but("unfocused", "splits by the weights themselves", focus=1.0))
    budgets = [replace(row, asks=main.asks) for row in found]
    alone = [
        main.but(f"only{n}", f"trained for {n} tokens alone", keep=n, sampled=None) for n in (36, 9)
    ]
    return [*budgets, *alone]


def tells(page: Page, rows: Mapping[str, Found]) -> dict[str, Any]:
    """The rows of the tables, and how a row is asked with a budget."""
    return {
        "budgets": BUDGETS,
        "main": [rows[name] for name in MAIN],
        "others": [
            row for name, row in rows.items() if name not in (*MAIN, "finished", "baseline")
        ],
        "untrained": {
            name: {n: rows["finished"].asked(method, keep=n, **given) for n in BUDGETS}
            for name, (method, given) in UNTRAINED.items()
        },
        "at": at,
        "heard": lambda n: _instead(rows["fovea"], n, "another"),
        "told": lambda n: _instead(rows["fovea"], n, "oracle"),
        "first": lambda row: replace(row, results=dict(list(row.results.items())[:1])).accuracy,
        "field": field(page.root / "results"),
        "speed": json.loads((page.root / "results" / "selectors.json").read_text())["sizes"],
    }


def field(folder: Path) -> dict[str, Any]:
    """Comparisons on many questions: their rows by name, each run by its tokens; and how they were made.

    ours, best: the shipped checkpoint, as it was asked the same questions when it was made, and the best
    other row, by tokens.
    """
    shipped = json.loads((folder / "embedded-fovea-patchqa-test.json").read_text())
    found = [
        json.loads((folder / f"fovea-field{kind}.json").read_text()) for kind in ("", "-joined")
    ]
    rows: dict[str, dict[int, Any]] = {}
    for document in found:
        switched = [
            w for w in (document["dropped"], document["attention"]) if w not in USUAL.values()
        ]
        for run in document["runs"]:
            bare = run["name"] == "uncompressed"
            name = run["name"] if bare else ", ".join([run["name"], *switched])
            rows.setdefault(name, {})[round(run["tokens"])] = run
    rows.pop("embedded-fovea (trained)", None)  # of weights that may have been trained on since
    bare = rows.pop("uncompressed")
    there = {n: [row[n] for row in rows.values() if n in row] for n in BUDGETS}
    best = {n: max(some, key=right) for n, some in there.items() if some}
    ours = {n: _whole(shipped["budgets"][str(n)]["overall"]) for n in best}
    commits = [document["circumstances"]["commit"][:9] for document in found]
    made = {"rivals": rows, "bare": bare[144], "commits": commits}
    return {"ours": ours, "whole": shipped["budgets"]["144"]["overall"], "best": best, **made}


def _whole(score: Mapping[str, Any]) -> dict[str, Any]:
    """A score as a comparison's run has it."""
    interval = [score["low"], score["high"]]
    return {"accuracy": {"overall": score["accuracy"]}, "interval": {"overall": interval}}


def right(run: Mapping[str, Any]) -> float:
    """The share of its answers that are right."""
    return run["accuracy"]["overall"]


def _instead(row: Found, keep: int, other: str) -> Any:
    """How far the same weights are above themselves with other looks in the scorer's place."""
    return (row.sample("looks", other, str(keep)) - at(row, keep).right()).estimate()


def at(row: Found, tokens: float) -> Found:
    """A row asked for a budget; average pooling for the next smaller one that it has."""
    if row.row.recipe.method == "pool":
        stride = next(n for n in STRIDES if (12 // n) ** 2 <= (144 if tokens == 1.0 else tokens))
        return row if stride == 2 else row.asked(stride=stride)
    return row if row.row.recipe.arguments.get("keep") == tokens else row.asked(keep=tokens)


def draws(rows: Mapping[str, Found], path: Path) -> Path:
    """A line for each way of the main rows over the budgets."""
    found = {rows[name].called: figures.points(at(rows[name], n) for n in BUDGETS) for name in MAIN}
    return figures.lines(found, rows["baseline"].accuracy, path)


PAGE = Page("fovea", rows(), measures={"looks": looks}, tells=tells, draws=draws)
