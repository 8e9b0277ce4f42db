"""The board as people read it: a page of text with a chart, and one to sort and to filter."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from foveate.evaluate.comparison import BARE
from foveate.evaluate.score import OVERALL
from foveate.keeping.provenance import write as put
from foveate.leaderboard.figures import Result, Row, ahead, rows
from foveate.tasks import TASKS

# Okabe and Ito's colours: told apart by colour-blind readers.
SORTED = "board.html"  # not leaderboard.html, which a site makes of leaderboard.md
MORE = 1.01  # a budget's worth of tokens: shares of a grid are rounded
KINDS = {
    "before the language model": "#0072B2",
    "inside it": "#D55E00",
    "trained": "#882255",
    "baseline": "#8a8a8a",
}


def write(results: Sequence[Result], folder: Path, address: str = SORTED) -> list[Path]:
    """Write leaderboard.md with its chart, and board.html; the same bytes for the same results."""
    board = rows(results)
    page = Environment(
        loader=PackageLoader("foveate.leaderboard"), trim_blocks=True, lstrip_blocks=True
    )
    page.filters.update(percent=percent, share=share)
    told = {
        "rows": board,
        "tasks": list(dict.fromkeys(row.task for row in board)),
        "where": _where(results),
        "kind": kind,
        "overall": OVERALL,
        "bare": BARE,
        "advice": advice(board),
        "keeps": keeps_of(board),
        "ours": all(row.task in TASKS for row in board),
        "parts": {task: parts(board, task) for task in {row.task for row in board}},
        "bare_of": {row.task: row for row in board if row.method == BARE},
        "helped": [
            task for task in dict.fromkeys(row.task for row in board) if helped(board, task)
        ],
        "address": address,
    }
    data = [{**row.as_dict(), "kind": kind(row)} for row in board]
    text = page.get_template("leaderboard.md.jinja").render(told)
    sorting = page.get_template("leaderboard.html.jinja").render(
        told, data=_script(data), kinds=KINDS
    )
    return [
        put(folder / "leaderboard.md", text),
        put(folder / SORTED, sorting),
        put(folder / "leaderboard.svg", chart(board)),
    ]


def kind(row: Row) -> str:
    """In which of KINDS a row is."""
    if row.baseline:
        return "baseline"
    if row.trained:
        return "trained"
    return "inside it" if row.inside else "before the language model"


def percent(value: float | None) -> str:
    """83.2 for 0.832."""
    return "–" if value is None else f"{100 * value:.1f}"


def share(right: tuple[float, float]) -> str:
    """83.2 ± 1.4."""
    return f"{100 * right[0]:.1f} ± {100 * right[1]:.1f}"


def keeps_of(board: Sequence[Row]) -> list[float]:
    """The shares that were asked for, most first."""
    asked = {row.keep for row in board if isinstance(row.keep, float) and row.method != BARE}
    return sorted(asked - {1.0}, reverse=True)


def parts(board: Sequence[Row], task: str) -> dict[str, list[tuple[str, list[Row | None]]]]:
    """The rows of a task by kind, a line a method: its row at each share, and at a budget of its own."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in board:
        if row.task == task and row.method != BARE:
            lines = found.setdefault(kind(row), {})
            lines.setdefault(row.model if row.trained else row.method, []).append(row)
    return {name: _lines(found[name], keeps_of(board)) for name in KINDS if name in found}


def _lines(
    methods: Mapping[str, Sequence[Row]], keeps: Sequence[float]
) -> list[tuple[str, list[Row | None]]]:
    """The row of each method in each column; a last one for those that have a budget of their own."""
    at = {m: {r.keep if r.keep in keeps else None: r for r in some} for m, some in methods.items()}
    columns = [*keeps, *([None] if any(None in own for own in at.values()) else [])]
    return [(method, [own.get(column) for column in columns]) for method, own in at.items()]


def advice(board: Sequence[Row]) -> list[dict[str, Any]]:
    """On the first task, with at most so many tokens: the best row without training and the best trained one.

    Tokens are the mean over the decoder layers, whatever a method calls its budget. near: the others whose
    intervals reach into the best one's.
    """
    bare = next((row for row in board if row.method == BARE), None)
    if bare is None:
        return []
    own = [row for row in board if row.task == bare.task and not row.baseline]
    found = []
    for keep in keeps_of(own):
        at = [row for row in own if row.layers <= keep * bare.layers * MORE]
        free, trained = ([r for r in at if r.trained is learnt] for learnt in (False, True))
        first = max(free, key=_right, default=None)
        near = [r for r in free if r is not first and _reaches(r, first)]
        found.append(
            {
                "tokens": keep * bare.layers,
                "all": bare.layers,
                "free": first,
                "trained": max(trained, key=_right, default=None),
                "near": list({r.method: r for r in near if r.method != first.method}.values()),
            }
        )
    return found


def helped(board: Sequence[Row], task: str) -> bool:
    """Whether fewer tokens answer better than all of them, by more than both intervals."""
    own = [row for row in board if row.task == task]
    bare = next(row for row in own if row.method == BARE)
    mean, half = bare.right[OVERALL]
    return any(row.right[OVERALL][0] - row.right[OVERALL][1] > mean + half for row in own)


def _right(row: Row) -> float:
    return row.right[OVERALL][0]


def _reaches(row: Row, best: Row) -> bool:
    (mean, half), (top, around) = row.right[OVERALL], best.right[OVERALL]
    return mean + half >= top - around


def _script(data: list[dict[str, Any]]) -> str:
    """JSON that may stand in a script of a page."""
    return json.dumps(data, separators=(",", ":")).replace("</", "<\\/")


def _where(results: Sequence[Result]) -> dict[str, list[str]]:
    """With what the results were made."""
    told = [result["circumstances"] for result in results]
    return {
        "commits": sorted({t["commit"][:7] for t in told if t["commit"]}),
        "devices": sorted({t["device"] for t in told}),
        "versions": sorted(
            {f"{n} {t['versions'][n]}" for t in told for n in ("torch", "transformers")}
        ),
    }


def _named(axes: Any, front: Sequence[Row], style: Any, besides: Collection[str]) -> set[str]:
    """A front as a line; each method on it has its name where it first comes. Returns the names."""
    x, y = [r.layers for r in front], [100 * _right(r) for r in front]
    axes.plot(x, y, color="#333333", linewidth=1, linestyle=style)
    every = reversed([*zip(front, x, y, strict=True)])
    names = {r.model if r.trained else r.method: at for r, *at in every}
    for n, (name, at) in enumerate(sorted(names.items(), key=lambda one: one[1])):
        if name not in besides:
            where = {"xytext": (3, 5 + 10 * (n % 2)), "textcoords": "offset points", "fontsize": 9}
            axes.annotate(name, at, **where)
    return {*names}


def chart(board: Sequence[Row]) -> str:
    """Right answers against tokens on the first task: an SVG. Dotted is the front without training."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    own = [row for row in board if row.task == board[0].task] if board else []
    style = {"font.size": 11, "svg.hashsalt": "foveate", "svg.fonttype": "none"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.8, 4.4), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for name, ink in KINDS.items():
            some = [r for r in own if kind(r) == name and r.method != BARE]
            x, y = [r.layers for r in some], [100 * _right(r) for r in some]
            axes.scatter(x, y, s=22, color=ink, label=name, linewidth=0, alpha=0.85)
        free, named = [row for row in own if not row.trained], set()
        for some, style in ((own, "-"), (free, (0, (1, 2)))):
            front = sorted((r for r in some if ahead(r, some)), key=lambda r: r.layers)
            named |= _named(axes, front, style, named)
        for row in (r for r in own if r.method == BARE):
            axes.axhline(100 * _right(row), color="#9a9a9a", linestyle=(0, (4, 3)), linewidth=1)
        axes.set_ylim(top=107)  # room for names
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("visual tokens, mean over the decoder layers (logarithmic)")
        axes.set_ylabel("right answers, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        axes.legend(loc="lower right", fontsize=9, frameon=False)
        figure.savefig(drawn := io.StringIO(), format="svg", metadata={"Date": None})
    return drawn.getvalue()
