"""Several seeds and many questions as one number with its interval, and what stands where there is none."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any, NamedTuple

from foveate.evaluate.score import clustered_error

# Student's t, 95 % two-sided, by degrees of freedom.
T = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
Z = 1.960
ENOUGH = 3  # seeds for an interval over seeds; of fewer, one over questions is told


class NotRun:
    """What is not there yet. Whatever is asked of it, it stays that; in a table it says so."""

    def __getattr__(self, name: str) -> NotRun:
        if name.startswith(("__", "jinja_")):  # what libraries ask of any object
            raise AttributeError(name)
        return self

    def _stays(self, *_: Any) -> NotRun:
        return self

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __getitem__ = _stays
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _stays
    __rtruediv__ = __neg__ = __abs__ = __call__ = _stays
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return False

    def __format__(self, spec: str) -> str:
        return str(self)

    def __str__(self) -> str:
        return "not run"


NOT_RUN = NotRun()


class Estimate(NamedTuple):
    """A share, or a difference of shares, with half of its 95 % interval."""

    mean: float
    half: float
    over_seeds: bool = True

    @property
    def side(self) -> int:
        """1 or -1 where the whole interval is on that side of zero, else 0."""
        return 0 if abs(self.mean) <= self.half else (1 if self.mean > 0 else -1)

    def over(self, other: Estimate) -> bool:
        """Whether its whole interval is above another's."""
        return self.mean - self.half > other.mean + other.half

    def above(self, level: float) -> Estimate:
        """How far it is above a level, that of chance say."""
        return self._replace(mean=self.mean - level)

    def text(self, sign: str = "") -> str:
        """In per cent; a dagger says that the interval is over questions alone."""
        mark = "" if self.over_seeds else "†"
        return f"{100 * self.mean:{sign}.1f} ± {100 * self.half:.1f}{mark}"

    __str__ = text


@dataclass(frozen=True)
class Sample:
    """Numbers by seed, all seeds' in the same order, and the scene that each is about."""

    values: Mapping[int, Sequence[float]]
    scenes: Sequence[Hashable]

    def __sub__(self, other: Sample) -> Sample:
        """The difference, number by number, on the seeds that both have."""
        both = sorted(self.values.keys() & other.values.keys())
        pairs = {s: zip(self.values[s], other.values[s], strict=True) for s in both}
        return Sample({s: [a - b for a, b in pair] for s, pair in pairs.items()}, self.scenes)

    def of(self, which: Sequence[int]) -> Sample:
        """Those numbers alone."""
        values = {seed: [some[i] for i in which] for seed, some in self.values.items()}
        return Sample(values, [self.scenes[i] for i in which])

    def estimate(self) -> Estimate | NotRun:
        """The mean over seeds with its interval: over the seeds, or if they are few over the scenes."""
        if not self.values:
            return NOT_RUN
        means, n = [fmean(some) for some in self.values.values()], len(self.values)
        if n >= ENOUGH:
            return Estimate(fmean(means), T[n - 1] * stdev(means) / sqrt(n))
        each = [fmean(some) for some in zip(*self.values.values(), strict=True)]
        return Estimate(fmean(each), Z * clustered_error(each, self.scenes), over_seeds=False)
