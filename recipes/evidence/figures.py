"""The pictures of the evidence pages."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

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
    style = {"font.size": 10, "font.family": "sans-serif", "svg.hashsalt": "foveate"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.add_subplot()
        level = 100 * bare["accuracy"]["overall"]
        axes.axhline(level, color="#9a9a9a", linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "uncompressed",
            (0.01, level),
            xycoords=("axes fraction", "data"),
            va="bottom",
            color="#777777",
            fontsize=9,
        )
        for i, (layer, points) in enumerate(sorted(lines.items())):
            x, y, strides = zip(*sorted(points), strict=True)
            axes.plot(
                x,
                y,
                color=COLOURS[i],
                marker=MARKERS[i],
                markersize=5.5,
                linewidth=1.5,
                label=f"K = {layer}",
            )
            axes.annotate(
                f"S = {strides[0]}",
                (x[0], y[0]),
                xytext=(-6, -11),
                fontsize=8,
                textcoords="offset points",
                color=COLOURS[i],
                ha="center",
            )
        axes.set_xlabel("visual tokens, mean over the decoder layers")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(20, 102)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        axes.legend(frameon=False, loc="lower right", title="pooled before layer")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    path.write_text(file.getvalue(), encoding="utf-8")
    return path
