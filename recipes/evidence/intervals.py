"""Several seeds as one number: means, intervals, and how a page writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import mean, stdev

# Student's t, 95 % two-sided, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def half(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean over seeds; NaN for a single seed."""
    if len(values) < 2:
        return float("nan")
    return T[len(values) - 1] * stdev(values) / sqrt(len(values))


def percent(values: Sequence[float], signed: bool = False) -> str:
    """The mean in per cent, with its interval where there are several seeds."""
    if not values:
        return "–"
    sign = "+" if signed else ""
    text = f"{100 * mean(values):{sign}.1f}"
    return text if len(values) < 2 else f"{text} ± {100 * half(values):.1f}"


def verdict(differences: Sequence[float]) -> int:
    """1 or -1 where the 95 % interval of a difference over seeds lies on one side of zero, else 0."""
    if len(differences) < 2 or abs(mean(differences)) <= half(differences):
        return 0
    return 1 if mean(differences) > 0 else -1


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column on the left and numbers on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
