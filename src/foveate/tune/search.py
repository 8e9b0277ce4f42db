"""Successive halving: all candidates on few questions, the better half on twice as many, and so on.

Karnin, Koren and Somekh 2013; Jamieson and Talwalkar 2016, arXiv:1502.07943. Better is what no other beats in
tokens and in answers at once, so that what is left is a front and no single point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

FIRST = 64  # questions that every candidate is asked
FEWEST = 8  # candidates that are asked all of them


@dataclass(frozen=True)
class Asked:
    """What came of a candidate so far, beside the same questions with all tokens; sums over them.

    plan   the run
    n      questions
    flips  answers that differ
    moved  nats by which the entropy of the first token is another
    seen   visual tokens of an image, the mean over the decoder layers
    macs   of the prefills; `bare` with all tokens
    """

    plan: Any
    n: int = 0
    flips: int = 0
    moved: float = 0.0
    seen: float = 0.0
    macs: float = 0.0
    bare: float = 0.0

    def more(self, run: Mapping[str, Any], full: Mapping[str, Any]) -> Asked:
        """With the documents of more questions: of this candidate and of the bare model."""
        pairs = [(one, full["answers"][key]) for key, one in run["answers"].items()]
        return replace(
            self,
            n=self.n + len(pairs),
            flips=self.flips + sum(a["prediction"] != b["prediction"] for a, b in pairs),
            moved=self.moved + sum(abs(a["doubt"] - b["doubt"]) for a, b in pairs),
            seen=self.seen + sum((a["layer_share"] or 0) * a["before"] for a, _ in pairs),
            macs=self.macs + len(pairs) * run["cost"]["total"],
            bare=self.bare + len(pairs) * full["cost"]["total"],
        )

    @property
    def rate(self) -> float:
        """Answers that differ, as a share."""
        return self.flips / self.n

    @property
    def tokens(self) -> float:
        """Visual tokens of an image, the mean over decoder layers and questions."""
        return self.seen / self.n

    @property
    def prefill(self) -> float:
        """Multiply-accumulates of the prefills, as a share of those with all tokens."""
        return self.macs / self.bare

    @property
    def harm(self) -> tuple[float, float]:
        """What is to be small: the share of answers that differ, and where they tie what moved."""
        return self.rate, self.moved / self.n


def spans(n: int, first: int = FIRST) -> list[tuple[int, int]]:
    """Where the questions of each round begin and end: the first so many, then as many as before again."""
    ends = [first << k for k in range(n.bit_length()) if first << k + 1 <= n] + [n]
    return list(zip([0, *ends], ends, strict=False))


def front(found: Sequence[Asked]) -> list[Asked]:
    """Those that no other beats, fewest tokens first: none has as few tokens and does less harm."""
    best, least = [], (inf, inf)
    for one in sorted(found, key=lambda a: (a.tokens, *a.harm)):
        if one.harm < least:
            best.append(one)
            least = one.harm
    return best


def search(
    plans: Sequence[Any],
    ask: Callable[[Sequence[Any], tuple[int, int]], Sequence[Mapping[str, Any]]],
    rounds: Sequence[tuple[int, int]],
    within: Callable[[Asked], bool] = lambda one: True,
    near: Callable[[Asked], Any] = lambda one: one.harm,
    fewest: int = FEWEST,
) -> list[Asked]:
    """What came of every candidate: those that were asked everything first.

    ask makes the documents of runs on a span of the questions, the bare model's first. Candidates that are
    not within go at once. The others go by fronts, and inside of one by what is near.
    """
    left, gone = [Asked(plan) for plan in plans], []
    for span in rounds:
        if not left:
            break
        full, *runs = ask([one.plan for one in left], span)
        left = [one.more(run, full) for one, run in zip(left, runs, strict=True)]
        gone += [one for one in left if not within(one)]
        order = _by_fronts([one for one in left if within(one)], near)
        half = len(order) if span == rounds[-1] else max(fewest, -(-len(order) // 2))
        left, gone = order[:half], [*gone, *order[half:]]
    return [*left, *sorted(gone, key=lambda one: -one.n)]


def _by_fronts(left: list[Asked], near: Callable[[Asked], Any]) -> list[Asked]:
    """Those that no other beats, then those that only these beat, and so on."""
    found: list[Asked] = []
    while left:
        best = front(left)
        found += sorted(best, key=near)
        left = [one for one in left if one not in best]
    return found
