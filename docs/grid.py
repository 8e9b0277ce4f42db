"""The grid on the page of costs: what is saved against image and batch sizes, from results/grid-*.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from outcomes import RESULTS, budget, short, source
from tables import table

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B0508C", "#8F6400")  # Okabe and Ito's
MARKERS = ("o", "s", "^", "D", "v")
STYLE = {"font.size": 10, "svg.hashsalt": "foveate", "svg.fonttype": "none"}
SHOWN = 0.25  # the budget of the table and of the second picture
Cell = Mapping[str, Any]


def grids() -> list[tuple[Path, Mapping[str, Any]]]:
    """Every grid that is measured, whole or in part."""
    found = [(path, json.loads(path.read_text())) for path in sorted(RESULTS.glob("grid-*.json"))]
    return [(path, grid) for path, grid in found if timed(grid)]


def timed(grid: Mapping[str, Any]) -> list[Cell]:
    """Its cells with a clock, but for those that keep all."""
    return [cell for cell in grid["cells"] if "prefill_s" in cell and not cell["idle"]]


def page() -> str:
    """The two pictures, and under them a table for each model."""
    found = grids()
    if not found:
        return "Not measured yet: `make grid` does."
    shown = [
        "![The share of the saved arithmetic that became saved time, against visual tokens](../realised.svg)",
        "![The time of a prefill against visual tokens, at every batch size](../growing.svg)",
    ]
    return "\n\n".join([*shown, *(part for path, grid in found for part in told(path, grid))])


def told(path: Path, grid: Mapping[str, Any]) -> list[str]:
    """What was measured where, its table, and what was left out and why."""
    run, cells = grid["run"], timed(grid)
    load = max(cell["load"] or 0 for cell in cells)
    where = f"{run['device']}, {run['threads']} threads, torch {run['versions']['torch']}"
    about = (
        f"{source(path)}, {where}, commit {short(run['commit'])}. Load before it began: {load:.1f}."
    )
    parts = [f"### {grid['model']}: the grid", about, ratios(cells)]
    if grid["left_out"]:
        parts += ["Left out:", left_out(grid["left_out"])]
    return parts


def ratios(cells: Sequence[Cell]) -> str:
    """Each method at one budget: medians against the bare model, and after the slash against the limit."""
    rows = [
        (
            f"{cell['visual']:,}",
            cell["batch"],
            f"`{cell['method']}`",
            both(wall(cell, "to_bare"), wall(cell, "to_limit")),
            both(cell.get("decode_to_bare"), cell.get("decode_to_limit")),
            both(longest(cell, "to_bare"), longest(cell, "to_limit")),
            f"{cell['peak_to_bare']:.2f} / {cell['peak_to_limit']:.2f}",
            f"{100 * cell['realised']['median']:.0f} %" if cell["realised"] else "–",
        )
        for cell in cells
        if cell["keep"] == SHOWN and "to_bare" in cell
    ]
    head = ("visual tokens", "batch", "method", "prefill", "each further token", "whole answer")
    return table((*head, "peak memory", "realised"), rows)


def wall(cell: Cell, name: str) -> Mapping[str, float]:
    """A prefill's ratio by the clock on the wall."""
    return cell[name]["wall"]


def longest(cell: Cell, name: str) -> Mapping[str, float] | None:
    """The ratio of the longest answer."""
    answers = cell.get(f"end_to_end_{name}", {})
    return answers[max(answers, key=int)] if answers else None


def both(bare: Mapping[str, float] | None, limit: Mapping[str, float] | None) -> str:
    """Two medians, with a dash where there is none."""
    return " / ".join("–" if one is None else f"{one['median']:.2f}" for one in (bare, limit))


def left_out(cells: Iterable[Cell]) -> str:
    """One row for each image and batch size: what is missing, and the first reason."""
    some: dict[tuple[Any, int], list[Cell]] = {}
    for cell in cells:
        if "batch" in cell:
            some.setdefault((cell.get("asked", "–"), cell["batch"]), []).append(cell)
    rows = [
        (
            visual,
            batch,
            ", ".join(f"`{c['method']}` {budget(c['keep'])}" for c in group),
            group[0]["why"],
        )
        for (visual, batch), group in some.items()
    ]
    return table(("visual tokens", "batch", "cells", "why"), rows)


def realised() -> bytes:
    """A row of panels for each model, one for each budget; a line for each method, one prompt at a time."""
    found = [[c for c in timed(grid) if c["batch"] == 1] for _, grid in grids()]
    keeps = sorted({c["keep"] for cells in found for c in cells if "to_bare" in c}, reverse=True)
    figure, axes = panels(len(found), len(keeps))
    for (_, grid), cells, across in zip(grids(), found, axes, strict=True):
        for keep, one in zip(keeps, across, strict=True):
            one.axhline(100, color="#9a9a9a", linewidth=1, linestyle=(0, (4, 3)))
            one.set_title(f"{grid['model']}, {100 * keep:.0f} % kept", loc="left", fontsize=10)
            for i, (name, points) in enumerate(by("method", cells, keep).items()):
                x, spans = [c["visual"] for c in points], [c["realised"] for c in points]
                y = [100 * span["median"] for span in spans]
                bars = [[100 * abs(s[end] - s["median"]) for s in spans] for end in ("low", "high")]
                look = {"color": COLOURS[i % 5], "marker": MARKERS[i % 5], "capsize": 3}
                one.errorbar(x, y, yerr=bars, label=name, **look)
            plain(one)
        across[0].set_ylabel("saved time / saved arithmetic, %")
    return drawn(figure, axes)


def growing() -> bytes:
    """A panel for each model: a prefill's seconds, a colour for each batch size, dashed with a method."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, ((*axes,),) = panels(1, len(grids()))
    for (_, grid), one in zip(grids(), axes, strict=True):
        cells = timed(grid)
        whole = [c for c in cells if "to_bare" not in c]
        for i, (batch, points) in enumerate(by("batch", whole, 1.0).items()):
            line(one, points, COLOURS[i % 5], "-", f"{batch} at once")
        first = next((c["method"] for c in cells if c["keep"] == SHOWN), None)
        some = [c for c in cells if c["method"] == first]
        for i, points in enumerate(by("batch", some, SHOWN).values()):
            line(one, points, COLOURS[i % 5], "--", None)
        dashed = "" if first is None else f"; dashed: {first}, {100 * SHOWN:.0f} % kept"
        one.set_title(f"{grid['model']}{dashed}", loc="left", fontsize=10)
        one.set_yscale("log")
        one.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        for put in (one.yaxis.set_major_formatter, one.yaxis.set_minor_formatter):
            put(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        plain(one)
    axes[0].set_ylabel("prefill of the batch, seconds")
    return drawn(figure, [axes])


def by(name: str, cells: Iterable[Cell], keep: float) -> dict[Any, list[Cell]]:
    """The cells of a budget that have something to show, in lines; those of a line by their tokens."""
    found: dict[Any, list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: c["visual"]):
        if cell["keep"] == keep and cell.get("realised", True):
            found.setdefault(cell[name], []).append(cell)
    return found


def line(axes: Any, points: Sequence[Cell], colour: str, style: str, label: str | None) -> None:
    """Medians of prefills against visual tokens."""
    y = [c["prefill_s"]["median"] for c in points]
    axes.plot([c["visual"] for c in points], y, style, color=colour, marker="o", label=label)


def panels(down: int, across: int) -> tuple[Any, Any]:
    """A figure, and its axes in rows."""
    from matplotlib.figure import Figure

    size = (max(2.9 * across, 7.2), 0.6 + 2.7 * down)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    return figure, figure.subplots(down, across, squeeze=False, sharey="row", sharex=True)


def plain(axes: Any) -> None:
    """Ticks at the sizes that there are, and no more ink than needed."""
    axes.set_xticks(sorted({cell["visual"] for _, grid in grids() for cell in timed(grid)}))
    axes.set_xlabel("visual tokens")
    axes.label_outer()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)


def drawn(figure: Any, axes: Any) -> bytes:
    """The picture with its legend, undated: the same numbers make the same file."""
    named = dict(
        pair[::-1]
        for row in axes
        for one in row
        for pair in zip(*one.get_legend_handles_labels(), strict=True)
    )
    figure.legend(named.values(), named, loc="outside lower left", ncols=5, frameon=False)
    figure.savefig(file := BytesIO(), format="svg", metadata={"Date": None})
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    """The pictures by their names; none without a grid."""
    import matplotlib

    if not grids():
        return {}
    with matplotlib.rc_context(STYLE):
        return {"realised.svg": realised(), "growing.svg": growing()}
