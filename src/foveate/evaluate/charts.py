"""Figures of a method on a task: how large its tokens are, and what the layer is worth at which it acts."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foveate.evaluate.labels import COLOURS, FAINT, INK, MARKERS, colour
from foveate.evaluate.score import OVERALL
from foveate.keeping.provenance import write

MOST = 8  # bars of single sizes; beyond, sizes between powers of two share one
ABREAST = 3  # steps side by side
DPI = 160


def sizes_figure(document: Mapping[str, Any], path: Path) -> None:
    """A histogram for each step: shares of the tokens, and of the image, by the patches a token carries.

    document: {"model", "task", "n", "method", "steps" as `sizes` makes them}; path: .svg, .png or .pdf.
    """
    steps = document["steps"]
    across = min(len(steps), ABREAST)
    down = math.ceil(len(steps) / across)
    with _styled():
        figure = _figure(1.2 + 4.3 * across, 0.4 + 3.2 * down)
        for i, step in enumerate(steps):
            axes = figure.add_subplot(down, across, i + 1)
            _bars(axes, step)
            if i + across >= len(steps):
                axes.set_xlabel("patches per token", color=INK)
            if i % across == 0:
                axes.set_ylabel("share, %", color=INK)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
        _title(figure, f"{document['method']}: {_where(document)}")
        save(figure, path)


def guidance_figure(document: Mapping[str, Any], path: Path) -> None:
    """Accuracy above, the time of a prefill below, by the decoder layer before which tokens leave.

    document as `comparison` makes it; its runs have a "layer" and a "series" each, but for the first, of
    the model that is not guided. path ends in .svg, .png or .pdf.
    """
    bare, *runs = document["runs"]
    series: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        series.setdefault(run["series"], []).append(run)
    timed = all(run["prefill"] for run in runs)
    with _styled():
        figure = _figure(6.6, 5.8)
        accuracy, speed = figure.subplots(2, 1, sharex=True, height_ratios=[1.15, 1])
        _reference(accuracy, 100 * bare["accuracy"][OVERALL], bare["interval"][OVERALL])
        _reference(speed, _relative(bare, bare, timed)[0])
        for i, (name, of_method) in enumerate(series.items()):
            _accuracy(accuracy, of_method, i, name)
            _speed(speed, of_method, bare, i, timed)
        accuracy.set_ylabel("accuracy, %", color=INK)
        speed.set_ylabel("prefill, × bare" if timed else "MACs, × bare", color=INK)
        speed.set_xlabel("tokens leave before decoder layer", color=INK)
        speed.set_xticks(sorted({run["layer"] for run in runs}))
        speed.set_ylim(0, None)
        accuracy.legend(frameon=False, fontsize=9, loc="lower right")
        if timed:
            speed.legend(handles=_kinds_of_speed(), frameon=False, fontsize=9, loc="lower right")
        budgets = {run["keep"] for run in runs} - {None}
        _title(figure, ", ".join([_where(document), *(f"keep {keep}" for keep in budgets)]))
        save(figure, path)


def _bars(axes: Any, step: Mapping[str, Any]) -> None:
    """One step: for each size a bar of tokens and a bar of area; what was dropped stands last."""
    names, tokens, area = _binned(step["sizes"])
    if step["dropped"]:
        names, tokens, area = [*names, "dropped"], [*tokens, 0.0], [*area, 100 * step["dropped"]]
    for values, at, ink, label in (
        (tokens, -0.2, COLOURS[0], "of the tokens"),
        (area, 0.2, COLOURS[1], "of the image"),
    ):
        places = [k + at for k in range(len(names))]
        axes.bar(places, values, width=0.38, color=ink, label=label)
        for x, y in zip(places, values, strict=True):
            if y:
                axes.annotate(
                    f"{y:.0f}" if y >= 0.95 else f"{y:.1f}",
                    (x, y),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=INK,
                )
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.7, max(len(names) - 0.3, 2.7))
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 25))
    told = f"{step['site']}: {step['tokens']:.4g} of {step['patches']:.4g} tokens"
    axes.set_title(told, loc="left", fontsize=10, color=INK)
    _plain(axes)


def _binned(sizes: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[float], list[float]]:
    """Names of the bars, shares of tokens and of area in %: each size, or powers of two if many."""
    bins: dict[int, list[Mapping[str, Any]]] = {}
    single = len(sizes) <= MOST
    for one in sizes:
        bins.setdefault(one["patches"] if single else one["patches"].bit_length(), []).append(one)
    names = []
    for members in bins.values():
        ends = dict.fromkeys((members[0]["patches"], members[-1]["patches"]))
        names.append("–".join(map(str, ends)))
    return names, *(
        [100 * sum(one[of] for one in members) for members in bins.values()]
        for of in ("tokens", "area")
    )


def _accuracy(axes: Any, runs: Sequence[Mapping[str, Any]], i: int, name: str) -> None:
    """One method's accuracy by layer, with 95 % bars."""
    y = [100 * run["accuracy"][OVERALL] for run in runs]
    ends = [[100 * end for end in run["interval"][OVERALL]] for run in runs]
    _line(axes, runs, y, ends, i, name)


def _speed(
    axes: Any, runs: Sequence[Mapping[str, Any]], bare: Mapping[str, Any], i: int, timed: bool
) -> None:
    """One method's prefill by layer, with its quartiles; and what its arithmetic alone would give."""
    found = [_relative(run, bare, timed) for run in runs]
    _line(axes, runs, [y for y, _ in found], [ends for _, ends in found], i)
    if timed:
        counted = [_relative(run, bare, timed=False)[0] for run in runs]
        axes.plot([run["layer"] for run in runs], counted, color=colour(i), linestyle=":")


def _relative(
    run: Mapping[str, Any], bare: Mapping[str, Any], timed: bool
) -> tuple[float, Sequence[float]]:
    """A prefill against the bare model's: its median time and quartiles, or its MACs."""
    if timed and run["prefill"]:
        return run["prefill"]["ratio"], run["prefill"]["interval"]
    counted = run["cost"]["total"] / bare["cost"]["total"]
    return counted, (counted, counted)


def _line(
    axes: Any,
    runs: Sequence[Mapping[str, Any]],
    y: Sequence[float],
    ends: Sequence[Sequence[float]],
    i: int,
    name: str | None = None,
) -> None:
    x = [run["layer"] for run in runs]
    axes.vlines(x, *zip(*ends, strict=True), color=colour(i), linewidth=0.9, alpha=0.55)
    marker = MARKERS[i % len(MARKERS)]
    axes.plot(x, y, color=colour(i), marker=marker, markersize=5.5, mew=0, label=name)


def _reference(axes: Any, height: float, interval: Sequence[float] = ()) -> None:
    """The model without guidance, across."""
    if interval:
        axes.axhspan(*(100 * end for end in interval), color="#000000", alpha=0.07, linewidth=0)
    axes.axhline(height, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "without",
        (0, height),
        xytext=(4, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        color="#777777",
        fontsize=9,
    )
    _plain(axes)


def _kinds_of_speed() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=INK, marker="o", mew=0, label="measured"),
        Line2D([], [], color=INK, linestyle=":", label="multiply-accumulates"),
    ]


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    axes.set_axisbelow(True)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _where(document: Mapping[str, Any]) -> str:
    return f"{document['model']} on {document['task']}, {document['n']} questions"


def _title(figure: Any, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, color=INK)


def save(figure: Any, path: Path) -> None:
    """Write a figure, undated, so that the same numbers make the same file."""
    dates, kind = {"svg": "Date", "pdf": "CreationDate"}, path.suffix[1:].lower()
    undated = {dates[kind]: None} if kind in dates else {}
    figure.savefig(drawn := io.BytesIO(), format=kind, dpi=DPI, metadata=undated)
    write(path, drawn.getvalue())


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    style = {"font.size": 10, "font.family": "sans-serif", "axes.linewidth": 0.8}
    with matplotlib.rc_context({**style, "svg.hashsalt": "foveate"}):
        yield
