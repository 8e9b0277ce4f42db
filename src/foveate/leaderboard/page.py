"""The board as people read it: a page of text with a chart, and one to sort and to filter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from foveate.evaluate.comparison import BARE
from foveate.evaluate.score import OVERALL
from foveate.keeping.provenance import write as put
from foveate.leaderboard.figures import Result, Row, rows

# Okabe and Ito's colours: told apart by colour-blind readers.
KINDS = {
    "before the language model": "#0072B2",
    "inside it": "#D55E00",
    "trained": "#882255",
    "baseline": "#8a8a8a",
}


def write(results: Sequence[Result], folder: Path, address: str = "leaderboard.html") -> list[Path]:
    """Write leaderboard.md with its chart, and leaderboard.html; the same bytes for the same results."""
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
        "address": address,
    }
    data = [{**row.as_dict(), "kind": kind(row)} for row in board]
    text = page.get_template("leaderboard.md.jinja").render(told)
    sorting = page.get_template("leaderboard.html.jinja").render(
        told, data=_script(data), kinds=KINDS
    )
    return [
        put(folder / "leaderboard.md", text),
        put(folder / "leaderboard.html", sorting),
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


def advice(board: Sequence[Row]) -> list[dict[str, Any]]:
    """At each budget of the first task, the best row without training and the best trained one.

    near: the others whose intervals reach into the best one's.
    """
    if not board:
        return []
    own = [row for row in board if row.task == board[0].task and not row.baseline]
    found = []
    for keep in sorted({row.keep for row in own if isinstance(row.keep, float)}, reverse=True):
        at = [row for row in own if row.keep == keep]
        parts = {"free": [r for r in at if not r.trained], "trained": [r for r in at if r.trained]}
        best = {name: max(some, key=_right, default=None) for name, some in parts.items()}
        first = best["free"]
        near = [r for r in parts["free"] if r is not first and first and _reaches(r, first)]
        found.append({"keep": keep, **best, "near": near})
    return found


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


def chart(board: Sequence[Row]) -> str:
    """Right answers against tokens on the first task, the front drawn, its methods named: an SVG."""
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
        front = sorted((r for r in own if r.front), key=lambda r: r.layers)
        axes.plot(
            [r.layers for r in front],
            [100 * _right(r) for r in front],
            color="#333333",
            linewidth=1,
        )
        for row in front:
            where = {"xytext": (-4, 6), "textcoords": "offset points", "fontsize": 9, "ha": "right"}
            axes.annotate(
                row.model if row.trained else row.method, (row.layers, 100 * _right(row)), **where
            )
        for row in (r for r in own if r.method == BARE):
            axes.axhline(100 * _right(row), color="#9a9a9a", linestyle=(0, (4, 3)), linewidth=1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("visual tokens, mean over the decoder layers (logarithmic)")
        axes.set_ylabel("right answers, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        axes.legend(loc="lower right", fontsize=9, frameon=False)
        figure.savefig(drawn := io.StringIO(), format="svg", metadata={"Date": None})
    return drawn.getvalue()
