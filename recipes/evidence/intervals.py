"""Several seeds as one number: means, intervals, and how a page writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

# Student's t, 95 % two-sided, by degrees of freedom.
T = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
Z = 1.960
ENOUGH = 3  # seeds for an interval over seeds; of fewer, one over questions is told

Right = Mapping[int, Sequence[float]]  # by seed: 1 or 0, or a difference of two, for every question


class Estimate(NamedTuple):
    """A share, or a difference of shares, with half of its 95 % interval."""

    mean: float
    half: float
    over_seeds: bool
    seeds: int = ENOUGH

    def __str__(self) -> str:
        return self.text("")

    @property
    def side(self) -> int:
        """1 or -1 where the whole interval is on that side of zero, else 0."""
        return 0 if abs(self.mean) <= self.half else (1 if self.mean > 0 else -1)

    def apart(self, other: Estimate) -> bool:
        """Whether the two intervals have nothing in common."""
        return abs(self.mean - other.mean) > self.half + other.half

    def text(self, sign: str = "+") -> str:
        """In per cent; a dagger says that the interval is over questions alone."""
        mark = "" if self.over_seeds else "†"
        return f"{100 * self.mean:{sign}.1f} ± {100 * self.half:.1f}{mark}"


def estimate(right: Right) -> Estimate | None:
    """The mean over seeds; None without any. Intervals over questions take the seeds' mean of each."""
    if not right:
        return None
    if len(right) >= ENOUGH:
        means = [fmean(answers) for answers in right.values()]
        return Estimate(
            fmean(means), T[len(means) - 1] * stdev(means) / sqrt(len(means)), True, len(right)
        )
    values = [fmean(answers) for answers in zip(*right.values(), strict=True)]
    return Estimate(fmean(values), Z * stdev(values) / sqrt(len(values)), False, len(right))


def against(a: Right, b: Right) -> Right:
    """The difference of two, question by question, of the seeds that both have."""
    both = sorted(a.keys() & b.keys())
    return {s: [x - y for x, y in zip(a[s], b[s], strict=True)] for s in both}


def shown(found: Estimate | None, sign: str = "") -> str:
    """A cell of a table."""
    return "–" if found is None else found.text(sign)


def seen_on(found: Estimate) -> str:
    """How a sentence on training begins: with the seeds, where they are too few for an interval."""
    return {1: "On one seed, t", 2: "On two seeds, t"}.get(found.seeds, "T")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column on the left and numbers on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
