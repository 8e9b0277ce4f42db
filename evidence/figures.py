"""The figure of an evidence page: accuracy against tokens, each line with its name beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evidence.estimates import Estimate
from foveate.keeping import provenance

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B0508C", "#8F6400", "#404040", "#404040", "#404040")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.size": 11,
    "font.family": "sans-serif",
    "svg.hashsalt": "foveate",  # the same picture for the same numbers
    "svg.fonttype": "none",
    "savefig.facecolor": "white",  # readable on a dark page too
}
GAP, LETTER = 0.052, 0.0165  # of the height, between two names; of the width, for a letter


class Point(NamedTuple):
    """Tokens, or a share of them in per cent, and the accuracy with them."""

    tokens: float
    accuracy: Estimate


def lines(
    found: Mapping[str, Sequence[Point]],
    level: Estimate,
    path: Path,
    tokens: str = "visual tokens",
    names: str = "right",
) -> Path:
    """Draw a line for each name, and the level of all tokens across. Bars are 95 % intervals.

    names: where a name stands: on the right of its line's end, or below its beginning.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.add_subplot()
        _level(axes, level)
        ends = {}
        for i, (name, points) in enumerate(found.items()):
            x, y, half = zip(*sorted((p.tokens, *p.accuracy[:2]) for p in points), strict=True)
            y, half = ([100 * value for value in some] for some in (y, half))
            look = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 6, "linewidth": 1.6}
            axes.errorbar(x, y, yerr=half if any(half) else None, capsize=3, **look)
            end = -1 if names == "right" else 0
            ends[name] = (x[end], y[end], COLOURS[i])
        axes.set_xlabel(tokens)
        axes.set_ylabel("right answers, %")
        axes.margins(x=0.08, y=0.1)
        if names == "right":
            axes.set_xlim(right=max(axes.get_xlim()[1], *_reach(axes.get_xlim()[0], ends)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        _name(axes, ends, names)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return provenance.write(path, file.getvalue())


def _level(axes: Axes, level: Estimate) -> None:
    """A dashed line across, its interval, and what it is."""
    low, high = (100 * (level.mean + side * level.half) for side in (-1, 1))
    axes.axhspan(low, high, color="#9a9a9a", alpha=0.18, linewidth=0)
    axes.axhline(100 * level.mean, color="#777777", linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "all tokens",
        (0.01, 100 * level.mean),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        color="#555555",
    )


def _reach(low: float, ends: Mapping[str, tuple[float, float, str]]) -> list[float]:
    """How far to the right each name on the right of its point needs the axis, which begins at low."""
    widths = {name: 0.02 + LETTER * len(name) for name in ends}
    return [(x - widths[name] * low) / (1 - widths[name]) for name, (x, *_) in ends.items()]


def _name(axes: Axes, ends: Mapping[str, tuple[float, float, str]], names: str) -> None:
    """Each name beside its point, moved up where it would lie on another that is near."""
    low, high = axes.get_ylim()
    taken: list[tuple[float, float]] = []
    reach = 0.3 * (axes.get_xlim()[1] - axes.get_xlim()[0])
    offset, place = (
        ((9, 0), ("left", "center")) if names == "right" else ((0, -8), ("center", "top"))
    )
    for name, (x, y, colour) in sorted(ends.items(), key=lambda end: end[1][1]):
        near = [height for there, height in taken if abs(there - x) < reach]
        at = max([y, *(height + GAP * (high - low) for height in near)]) if names == "right" else y
        taken.append((x, at))
        axes.annotate(
            name,
            (x, at),
            xytext=offset,
            textcoords="offset points",
            color=colour,
            ha=place[0],
            va=place[1],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        )
