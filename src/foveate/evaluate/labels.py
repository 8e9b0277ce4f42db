"""How the curves look: a colour and a marker for each method, and its name beside its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foveate.evaluate.comparison import lower, of_bare, of_trained, series, tokens
from foveate.evaluate.score import OVERALL

# Okabe and Ito's colours: told apart by colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TRAINED, STAR = (
    ("#882255", "#332288"),
    "*",
)  # models that were trained with their method: other weights
BESIDE = 14  # letters of a name that fits beside its line
INK, FAINT = "#333333", "#9a9a9a"


def colour(i: int) -> str:
    """The colour of the i-th method."""
    return COLOURS[i % len(COLOURS)]


def labels(axes: Any, document: Mapping[str, Any]) -> None:
    """A name beside each line and star, and beside the bare model's height."""
    methods = series(document)
    if any(len(name) > BESIDE for name in methods):  # names with arguments are too long for that
        handles = [_handle(i) for i in range(len(methods))]
        axes.legend(handles, list(methods), loc="lower right", fontsize=9)
    else:
        _named_lines(axes, methods)
    for i, runs in enumerate(of_trained(document).values()):
        _named_stars(axes, runs, TRAINED[i % len(TRAINED)], 7 + 10 * i)
    for name, (*_, run) in lower(document).items():
        axes.annotate(
            name,
            (tokens(run), 100 * run["accuracy"][OVERALL]),
            xytext=(0, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color="#777777",
            fontsize=8,
        )
    for bare in (run for run in document["runs"] if of_bare(document, run)):
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


def _named_lines(axes: Any, methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Each line's name left of its left end, pushed apart where names would overlap."""
    ends = {slug: 100 * runs[0]["accuracy"][OVERALL] for slug, runs in methods.items()}
    low, high = axes.get_ylim()
    span, places = (high - low) / 20, {}
    floor = low
    for slug in sorted(ends, key=ends.get):
        places[slug] = floor = max(ends[slug], floor + span)
    left = min((tokens(runs[0]) for runs in methods.values()), default=1.0)
    for i, (slug, runs) in enumerate(methods.items()):
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


def _named_stars(axes: Any, runs: Sequence[Mapping[str, Any]], ink: str, up: int) -> None:
    """A trained model's name so many points above its first star, legible where lines pass behind it."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        runs[0]["model"],
        (tokens(runs[0]), 100 * runs[0]["accuracy"][OVERALL]),
        xytext=(-6 if runs[1:] else 0, up),
        textcoords="offset points",
        color=ink,
        ha="left" if runs[1:] else "center",
        va="bottom",
        fontsize=9,
        fontweight="bold",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _handle(i: int) -> Any:
    """The i-th method's line in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour(i), marker=MARKERS[i % len(MARKERS)], mew=0)
