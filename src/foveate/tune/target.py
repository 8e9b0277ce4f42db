"""What is wanted: few tokens at so many changed answers, or few changed answers at so many tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.evaluate.bounds import proven
from foveate.tune.search import Asked, front

FLIPS = "flips"


@dataclass(frozen=True)
class Target:
    """What is wanted of a setting: at most so much of this, and of the other as little as can be.

    name   "flips": a share of answers that differ; "tokens" of an image, or "prefill", a share of its
           arithmetic: the fewest flips at that
    most   so much of it
    """

    name: str
    most: float

    def within(self, one: Asked) -> bool:
        """Whether a candidate is to be asked on: flips are not known before the end."""
        return self.name == FLIPS or getattr(one, self.name) <= self.most

    def near(self, one: Asked) -> Any:
        """Which of a front to keep first."""
        return (abs(one.rate - self.most), one.tokens) if self.name == FLIPS else one.harm

    def steps(self, found: Sequence[Asked]) -> list[Asked]:
        """What to try on other questions, in an order that is fixed before these are seen.

        Of flips: the front as far as it promises to keep the target, the safest first. Else the best alone.
        """
        best = front([one for one in found if self.within(one)])
        if self.name != FLIPS:
            return best[-1:]
        return [one for one in reversed(best) if one.rate <= self.most]


def shown(
    target: Target, found: Sequence[Asked], ask: Callable[[Any], Asked], delta: float
) -> Iterator[tuple[Asked, bool]]:
    """Each step on questions that chose nothing, and whether it holds what is wanted.

    ask(plan): what came of it there. Of flips a step is only taken where it is shown that no more differ, and
    ends at the first that is not: all are true together with probability 1 − delta (Learn-then-Test,
    Angelopoulos et al. 2021, arXiv:2110.01052).
    """
    for step in target.steps(found):
        told = ask(step.plan)
        holds = target.name != FLIPS or proven([told.flips], told.n, target.most, delta) is not None
        yield told, holds
        if not holds:
            return
