"""The trade-off curves: accuracy against tokens, all groups, as one SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from foveate.evaluate.score import OVERALL

# Okabe and Ito's colours: told apart by colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BESIDE = 14  # letters of a name that fits beside its line
INK, FAINT = "#333333", "#9a9a9a"
BARE = "identity"


def curves(document: Mapping[str, Any]) -> str:
    """An SVG element: overall large, each group small. document as `comparison` makes it."""
    import matplotlib
    from matplotlib.figure import Figure

    groups = [g for g in document["groups"] if g != OVERALL]
    style = {
        "font.size": 10,
        "svg.hashsalt": "foveate",
        "axes.linewidth": 0.8,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        grid = figure.add_gridspec(
            2, 2 + 2 * bool(groups), width_ratios=[1.15, 1.15] + [1, 1] * bool(groups)
        )
        large = figure.add_subplot(grid[:, :2])
        _scale(large, document)
        _panel(large, document, OVERALL)
        left, right = large.get_xlim()
        large.set_xlim(left * 0.72, right)
        _labels(large, document)
        large.set_ylabel("accuracy, %")
        for i, group in enumerate(groups[:4]):
            small = figure.add_subplot(grid[i // 2, 2 + i % 2], sharey=large)
            _panel(small, document, group)
            small.tick_params(labelleft=i % 2 == 0, labelbottom=i // 2 == 1 or len(groups) <= 2 + i)
        figure.supxlabel("visual tokens, mean over the decoder layers", fontsize=10, color=INK)
        return _svg(figure)


def tokens(run: Mapping[str, Any]) -> float:
    """Where a run stands on the axis: methods that act late count the layers that saw every token."""
    return run["cost"].get("equivalent_tokens", run["tokens"])


def _series(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each method but the bare model, fewest tokens first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in document["runs"]:
        if run["method"] != BARE:
            found.setdefault(run["method"], []).append(run)
    return {slug: sorted(runs, key=tokens) for slug, runs in found.items()}


def colour(i: int) -> str:
    """The colour of the i-th method."""
    return COLOURS[i % len(COLOURS)]


def _panel(axes: Any, document: Mapping[str, Any], group: str) -> None:
    """One group: a line per method with 95 % bars, and the bare model across."""
    for bare in (run for run in document["runs"] if run["method"] == BARE):
        low, high = (100 * x for x in bare["interval"][group])
        axes.axhspan(low, high, color="#000000", alpha=0.07, linewidth=0)
        axes.axhline(100 * bare["accuracy"][group], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for i, runs in enumerate(_series(document).values()):
        x, y = [tokens(r) for r in runs], [100 * r["accuracy"][group] for r in runs]
        ends = [[100 * e for e in r["interval"][group]] for r in runs]
        bars = [
            [max(v - e[0], 0) for v, e in zip(y, ends, strict=True)],
            [max(e[1] - v, 0) for v, e in zip(y, ends, strict=True)],
        ]
        axes.errorbar(x, y, yerr=bars, color=colour(i), linewidth=0, elinewidth=0.9, alpha=0.55)
        size = 5.5 if group == OVERALL else 4
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(x, y, color=colour(i), marker=marker, markersize=size, linewidth=1.5, mew=0)
    axes.set_title(group, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    axes.set_axisbelow(True)
    _ticks(axes, document)


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


def _labels(axes: Any, document: Mapping[str, Any]) -> None:
    """Each line's name left of its left end, pushed apart where names would overlap.

    Names with arguments are too long for that and go into a legend.
    """
    series = _series(document)
    if any(len(name) > BESIDE for name in series):
        axes.legend(
            [_handle(i) for i in range(len(series))], list(series), loc="lower right", fontsize=9
        )
        series = {}
    ends = {slug: 100 * runs[0]["accuracy"][OVERALL] for slug, runs in series.items()}
    low, high = axes.get_ylim()
    span, places = (high - low) / 20, {}
    floor = low
    for slug in sorted(ends, key=ends.get):
        places[slug] = floor = max(ends[slug], floor + span)
    left = min((tokens(runs[0]) for runs in series.values()), default=1.0)
    for i, (slug, runs) in enumerate(series.items()):
        # Where other lines run on beside its left end, a line is named at its right one.
        late = tokens(runs[0]) > 1.3 * left
        x, y = tokens(runs[-1]), 100 * runs[-1]["accuracy"][OVERALL]
        axes.annotate(
            slug,
            (x, y) if late else (tokens(runs[0]), ends[slug]),
            xytext=(7, -3) if late else (left * 0.93, places[slug]),
            textcoords="offset points" if late else "data",
            color=colour(i),
            ha="left" if late else "right",
            va="center",
            fontweight="bold",
        )
    for bare in (run for run in document["runs"] if run["method"] == BARE):
        axes.annotate(
            "uncompressed",
            (1, 100 * bare["accuracy"][OVERALL]),
            xytext=(0, 3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color="#777777",
            fontsize=9,
        )


def _handle(i: int) -> Any:
    """The i-th method's line in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour(i), marker=MARKERS[i % len(MARKERS)], mew=0)


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
