"""The trade-off curves: accuracy against tokens, all groups, as one SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.evaluate import charts
from foveate.evaluate.comparison import lower, of_bare, of_trained, series, tokens
from foveate.evaluate.labels import FAINT, INK, MARKERS, STAR, TRAINED, colour, labels
from foveate.evaluate.score import OVERALL

AXIS = "visual tokens, mean over the decoder layers (logarithmic: every step is twice the last)"


def curves(document: Mapping[str, Any]) -> str:
    """An SVG element for a page: overall large, each group small. document as `comparison` makes it."""
    with _styled():
        return _svg(_figure(document))


def write_curves(document: Mapping[str, Any], path: Path) -> Path:
    """The same as a file: path ends in .svg, .pdf or .png."""
    with _styled():
        charts.save(_figure(document), path)
    return path


def _styled() -> Any:
    import matplotlib

    style = {"font.size": 10, "axes.linewidth": 0.8, "font.family": "sans-serif"}
    return matplotlib.rc_context({**style, "svg.hashsalt": "foveate"})


def _figure(document: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure

    groups = [g for g in document["groups"] if g != OVERALL]
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    grid = figure.add_gridspec(
        2, 2 + 2 * bool(groups), width_ratios=[1.15, 1.15] + [1, 1] * bool(groups)
    )
    large = figure.add_subplot(grid[:, :2])
    _scale(large, document)
    _panel(large, document, OVERALL)
    left, right = large.get_xlim()
    large.set_xlim(left * 0.72, right)
    labels(large, document)
    large.set_ylabel("accuracy, %")
    for i, group in enumerate(groups[:4]):
        small = figure.add_subplot(grid[i // 2, 2 + i % 2], sharey=large)
        _panel(small, document, group)
        small.tick_params(labelleft=i % 2 == 0, labelbottom=i // 2 == 1 or len(groups) <= 2 + i)
    figure.supxlabel(AXIS, fontsize=10, color=INK)
    return figure


def _panel(axes: Any, document: Mapping[str, Any], group: str) -> None:
    """One group: a line per method with 95 % bars, stars for trained models, the bare one across."""
    for bare in (run for run in document["runs"] if of_bare(document, run)):
        low, high = (100 * x for x in bare["interval"][group])
        axes.axhspan(low, high, color="#000000", alpha=0.07, linewidth=0)
        axes.axhline(100 * bare["accuracy"][group], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for runs in lower(document).values():
        x, y = [tokens(r) for r in runs], [100 * r["accuracy"][group] for r in runs]
        axes.plot(x, y, color=FAINT, marker=".", linewidth=1, linestyle=(0, (1, 2)))
    for i, runs in enumerate(series(document).values()):
        _line(axes, runs, group, colour(i), MARKERS[i % len(MARKERS)], 5.5)
    for i, runs in enumerate(of_trained(document).values()):
        _line(axes, runs, group, TRAINED[i % len(TRAINED)], STAR, 13)
    axes.set_title(group, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    axes.set_axisbelow(True)
    _ticks(axes, document)


def _line(
    axes: Any, runs: list[Mapping[str, Any]], group: str, ink: str, marker: str, size: float
) -> None:
    """Runs in order, each with its 95 % bar; markers are smaller in small panels."""
    x, y = [tokens(r) for r in runs], [100 * r["accuracy"][group] for r in runs]
    ends = [[100 * e for e in r["interval"][group]] for r in runs]
    bars = [
        [max(v - e[0], 0) for v, e in zip(y, ends, strict=True)],
        [max(e[1] - v, 0) for v, e in zip(y, ends, strict=True)],
    ]
    axes.errorbar(x, y, yerr=bars, color=ink, linewidth=0, elinewidth=0.9, alpha=0.55)
    size *= 1.0 if group == OVERALL else 0.73
    axes.plot(x, y, color=ink, marker=marker, markersize=size, linewidth=1.5, mew=0)


def _ticks(axes: Any, document: Mapping[str, Any]) -> None:
    """A doubling axis, ticks at the full number of tokens and its halves."""
    full = max(run["tokens_before"] for run in document["runs"])
    least = min(tokens(run) for run in document["runs"])
    ticks = [full]
    while ticks[-1] / 2 > least * 0.9 and len(ticks) < 8:
        ticks.append(ticks[-1] / 2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(least * 0.82, full * 1.12)


def _scale(axes: Any, document: Mapping[str, Any]) -> None:
    """From ten points below the worst interval to 100 %, the same in every panel."""
    least = min(100 * ends[0] for run in document["runs"] for ends in run["interval"].values())
    axes.set_ylim(max(0, (least - 3) // 10 * 10), 101.5)


def _svg(figure: Any) -> str:
    """The figure as an element for a page: no prolog, no metadata, no foreign addresses."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text, count=2)
