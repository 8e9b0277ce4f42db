"""The loss of a run, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

INK, FAINT, STEP = "#0072B2", "#9ecae1", "#D55E00"


def curve(history: Sequence[dict[str, Any]], path: Path, title: str) -> Path:
    """Write the training loss of every logged step, a running mean, and the validation loss if there is one.

    history is a trainer's: entries with step and loss, or step and eval_loss.
    """
    import matplotlib
    from matplotlib.figure import Figure

    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    checks = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    with matplotlib.rc_context({"font.size": 10, "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        if losses:
            steps, values = zip(*losses, strict=True)
            axes.plot(steps, values, color=FAINT, linewidth=0.9, label="loss of a step")
            axes.plot(steps, smooth(values), color=INK, linewidth=1.8, label="running mean")
        if checks:
            axes.plot(
                *zip(*checks, strict=True), color=STEP, marker="o", markersize=4, label="validation"
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        axes.set_title(title, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=120)
    return path


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean over about a twentieth of the run, begun without bias."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    mean, weight, found = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(mean / weight)
    return found
