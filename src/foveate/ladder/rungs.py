"""What came of questions at every budget of a ladder, and the cheapest way up of which enough is proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from foveate.evaluate.bounds import proven

# Nats of entropy of the first token, fixed before any question is seen; at 0 all climb.
THRESHOLDS = (0.0, *np.geomspace(1e-6, 3.0, 131).tolist())


@dataclass(frozen=True)
class Way:
    """A way up: begin at one rung, climb while the first token is in doubt, end at another at the latest."""

    first: int
    last: int
    threshold: float = 0.0


@dataclass(frozen=True)
class Walk:
    """What a way makes of n questions.

    rung     (n,) where each is answered
    differs  (n,) bool, whether that answer is another than with all tokens
    tokens   (n,) visual tokens of an image that entered the language model, those of all rungs together
    """

    rung: np.ndarray
    differs: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Rungs:
    """What came of n questions on R rungs, fewest tokens first; the last is all tokens.

    doubt    (n, R) entropy of the first token, in nats
    differs  (n, R) bool, whether the answer is another than with all tokens
    tokens   (n, R) visual tokens of an image
    """

    doubt: np.ndarray
    differs: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Any]]) -> Rungs:
        """From the documents of runs with the same questions, by rung."""
        table = [[run["answers"][key] for run in runs] for key in runs[-1]["answers"]]

        def every(name: str) -> np.ndarray:
            return np.array([[one[name] for one in row] for row in table])

        said = every("prediction")
        return cls(every("doubt").astype(float), said != said[:, -1:], every("after").astype(float))

    def __len__(self) -> int:
        return len(self.doubt)

    def some(self, which: np.ndarray) -> Rungs:
        """Of these questions alone."""
        return Rungs(self.doubt[which], self.differs[which], self.tokens[which])

    def walk(self, way: Way) -> Walk:
        """What this way makes of them. Where doubt is no number, a question climbs."""
        met = slice(way.first, way.last + 1)
        sure = (self.doubt[:, met] <= way.threshold) & (way.threshold > 0)
        sure[:, -1] = True
        step, rows = sure.argmax(1), np.arange(len(self))
        rung = way.first + step
        return Walk(rung, self.differs[rows, rung], self.tokens[:, met].cumsum(1)[rows, step])


def calibrated(rungs: Rungs, risk: float, delta: float) -> Way:
    """The way that takes the fewest tokens of those of which it is shown that it changes few answers.

    With probability 1 − delta over the questions, at most `risk` of all answers differ from those with all
    tokens. Every pair of rungs to begin and to end at is a sequence of thresholds that is tested by itself,
    with its share of delta; a budget alone is one of them. All tokens, if nothing is shown: of n questions of
    which none differs, no risk below 1 − (delta / pairs)^(1/n) can be.
    """
    count = rungs.doubt.shape[1]
    pairs = list(combinations_with_replacement(range(count), 2))
    best = Way(count - 1, count - 1)
    for first, last in pairs:
        ways = [Way(first, last, t) for t in (THRESHOLDS if first < last else THRESHOLDS[:1])]
        wrong = [int(rungs.walk(way).differs.sum()) for way in ways]
        found = proven(wrong, len(rungs), risk, delta / len(pairs))
        candidates = [best] if found is None else [best, *ways[: found + 1]]
        best = min(candidates, key=lambda way: rungs.walk(way).tokens.mean())
    return best
