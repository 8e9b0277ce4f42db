"""The loss of a run, drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.keeping.provenance import write

INK, FAINT, STEP = "#0072B2", "#9ecae1", "#D55E00"


def curve(history: Sequence[dict[str, Any]], path: Path, title: str) -> Path:
    """Write the training loss of every logged step, a running mean, and the validation loss if there is one.

    history is a trainer's: entries with step and loss, or step and eval_loss. Where compressors add a
    penalty to the loss, the loss drawn is the language model's own, and the penalty stands below it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    losses = _of(history, "loss") | _of(history, "language_loss")
    checks, penalty = _of(history, "eval_loss"), _of(history, "penalty")
    with matplotlib.rc_context({"font.size": 10, "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 5.4 if penalty else 4.2), layout="constrained")
        heights = [3, 1] if penalty else [1]
        axes, *below = figure.subplots(
            len(heights), squeeze=False, sharex=True, height_ratios=heights
        )[:, 0]
        _draw(axes, losses, "loss of a step")
        if checks:
            axes.plot(*_lines(checks), color=STEP, marker="o", markersize=4, label="validation")
        _dress(axes, "language model's loss" if penalty else "loss")
        for one in below:
            _draw(one, penalty, "penalty of a step")
            _dress(one, "penalty")
        axes.set_title(title, loc="left", fontsize=11)
        [axes, *below][-1].set_xlabel("optimizer step")
        figure.savefig(drawn := io.BytesIO(), format=path.suffix[1:], dpi=120)
    return write(path, drawn.getvalue())


def _of(history: Sequence[dict[str, Any]], name: str) -> dict[int, float]:
    """What a history holds under this name, by step."""
    return {entry["step"]: entry[name] for entry in history if name in entry}


def _lines(values: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())


def _draw(axes: Any, values: dict[int, float], label: str) -> None:
    if values:
        steps, each = _lines(values)
        axes.plot(steps, each, color=FAINT, linewidth=0.9, label=label)
        axes.plot(steps, smooth(each), color=INK, linewidth=1.8, label="running mean")


def _dress(axes: Any, name: str) -> None:
    axes.set_ylabel(name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    if axes.get_legend_handles_labels()[0]:  # a run may end before its first step is logged
        axes.legend(frameon=False)


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean over about a twentieth of the run, begun without bias."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    mean, weight, found = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(mean / weight)
    return found
