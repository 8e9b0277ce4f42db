"""The figure of an evidence page: accuracy against tokens, each line with its name beside it."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evidence.estimates import Estimate
from evidence.results import Found
from foveate.keeping import provenance

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B0508C", "#8F6400")
MARKERS = ("o", "s", "^", "D", "v")
STYLE = {
    "font.size": 11,
    "font.family": "sans-serif",
    "svg.hashsalt": "foveate",  # the same picture for the same numbers
    "svg.fonttype": "none",
    "savefig.facecolor": "white",  # readable on a dark page too
}
GAP = 0.052  # between two names, of the height
LETTER, NEAR = 0.0145, 0.3  # the width of a letter, and how near is near, of the width


class Point(NamedTuple):
    """Tokens, or a share of them in per cent, and the accuracy with them."""

    tokens: float
    accuracy: Estimate


def points(rows: Iterable[Found]) -> list[Point]:
    """The points of those rows that are run."""
    return [Point(row.tokens, row.accuracy) for row in rows if row.answers]


class Name(NamedTuple):
    """A line's name, and the point that it stands beside."""

    text: str
    x: float
    y: float
    colour: str


def lines(
    found: Mapping[str, Sequence[Point]],
    level: Estimate,
    path: Path,
    tokens: str = "visual tokens",
    below: Collection[str] = (),
) -> Path:
    """Draw a line for each name, and the level of all tokens across. Bars are 95 % intervals.

    A name stands at its line's end, or if it is one of `below`, below its beginning.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.add_subplot()
        _level(axes, level)
        begins, ends = [], []
        for i, (name, points) in enumerate(found.items()):
            if not points:
                continue  # none of its runs is made yet
            x, y, half = zip(*sorted((p.tokens, *p.accuracy[:2]) for p in points), strict=True)
            y, half = ([100 * value for value in some] for some in (y, half))
            look = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 6, "linewidth": 1.6}
            axes.errorbar(x, y, yerr=half if any(half) else None, capsize=3, **look)
            begins.append(Name(name, x[0], y[0] - half[0], COLOURS[i]))
            ends.append(Name(name, x[-1], y[-1], COLOURS[i]))
        axes.set_xlabel(tokens)
        axes.set_ylabel("right answers, %")
        axes.margins(x=0.08, y=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        for name in begins:
            if name.text in below:
                _write(axes, name, name.y, (0, -5), ha="center", va="top")
        _at_the_ends(axes, [name for name in ends if name.text not in below])
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


def _at_the_ends(axes: Axes, names: Sequence[Name]) -> None:
    """Names on the right of their points, above them where the axis ends; none on another that is near."""
    left, right = axes.get_xlim()
    span, gap = right - left, GAP * (axes.get_ylim()[1] - axes.get_ylim()[0])
    taken: list[tuple[float, float]] = []
    for name in sorted(names, key=lambda name: name.y):
        fits = name.x + (0.03 + LETTER * len(name.text)) * span <= right
        near = [y + gap for x, y in taken if abs(x - name.x) < NEAR * span]
        y = max([name.y if fits else name.y + gap, *near])
        taken.append((name.x, y))
        offset, side = ((9, 0), "left") if fits else ((4, 0), "right")
        _write(axes, name, y, offset, ha=side, va="center")


def _write(axes: Axes, name: Name, y: float, offset: tuple[int, int], **aligned: str) -> None:
    axes.annotate(
        name.text,
        (name.x, y),
        xytext=offset,
        textcoords="offset points",
        color=name.colour,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        **aligned,
    )
