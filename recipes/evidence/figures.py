"""The pictures of the evidence pages."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from intervals import Estimate
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate.keeping import provenance

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
POOL = re.compile(r"Pool\(stride=(\d+), layer=(\d+)")


def curve(answers: Sequence[dict[str, Any]], path: Path) -> Path:
    """Accuracy against visual tokens over the layers: a line for each layer that pooling stands at."""
    bare, *pooled = answers
    lines: dict[int, list[tuple[float, float, int]]] = {}
    for answer in pooled:
        stride, layer = map(int, POOL.match(answer["compressor"]).groups())
        point = answer["equivalent_tokens"], 100 * answer["accuracy"]["overall"], stride
        lines.setdefault(layer, []).append(point)
    with drawn(path) as axes:
        _level(axes, bare["accuracy"]["overall"], "uncompressed")
        for i, (layer, points) in enumerate(sorted(lines.items())):
            x, y, strides = zip(*sorted(points), strict=True)
            axes.plot(x, y, label=f"K = {layer}", **_look(i))
            _name(axes, f"S = {strides[0]}", (x[0], y[0]), COLOURS[i])
        axes.set_xlabel("visual tokens, mean over the decoder layers")
        axes.set_ylim(20, 102)
        axes.legend(frameon=False, loc="lower right", title="pooled before layer")
    return path


def budgets(
    lines: Mapping[str, Mapping[int, tuple[float, Estimate]]],
    level: Estimate,
    path: Path,
    says: str = "k = {}",
) -> Path:
    """Accuracy against visual tokens, a line for each method: by budget, tokens and accuracy.

    Budgets are numbers, which `says` words. Bars and the band around the level are 95 % intervals.
    """
    with drawn(path) as axes:
        low, high = (100 * (level.mean + side * level.half) for side in (-1, 1))
        axes.axhspan(low, high, color="#9a9a9a", alpha=0.15, linewidth=0)
        _level(axes, level.mean, "all tokens")
        named: set[int] = set()
        for i, (name, points) in enumerate(lines.items()):
            x = [tokens + 0.3 * i for tokens, _ in points.values()]  # bars do not hide each other
            y, half = ([100 * e[n] for _, e in points.values()] for n in (0, 1))
            axes.errorbar(x, y, yerr=half, capsize=3, label=name, **_look(i))
            for budget, place in zip(points, zip(x, y, strict=True), strict=True):
                if budget not in named:  # lines lie close to one another
                    _name(axes, says.format(budget), place, "#404040", left=True)
                named.add(budget)
        axes.set_xlabel("visual tokens")
        axes.margins(x=0.08)
        if lines:
            axes.legend(frameon=False, loc="lower right")
    return path


@contextmanager
def drawn(path: Path) -> Iterator[Axes]:
    """Axes of accuracies to draw in, written as the same SVG for the same numbers."""
    style = {"font.size": 10, "font.family": "sans-serif", "svg.hashsalt": "foveate"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.add_subplot()
        yield axes
        axes.set_ylabel("accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    provenance.write(path, file.getvalue())


def _look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 5.5, "linewidth": 1.5}


def _level(axes: Axes, share: float, name: str) -> None:
    """A dashed line across, with its name."""
    axes.axhline(100 * share, color="#9a9a9a", linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        name,
        (0.01, 100 * share),
        xycoords=("axes fraction", "data"),
        va="bottom",
        color="#777777",
        fontsize=9,
    )


def _name(
    axes: Axes, text: str, place: tuple[float, float], colour: str, left: bool = False
) -> None:
    """A word beside a point: below it, or on its left."""
    axes.annotate(
        text,
        place,
        xytext=(-6, 4) if left else (-6, -11),
        fontsize=8,
        textcoords="offset points",
        color=colour,
        ha="right" if left else "center",
    )
