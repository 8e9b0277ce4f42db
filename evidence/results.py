"""What was found: the results of a page, row by row, and the distances between them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from PIL.Image import Image

from evidence.estimates import NOT_RUN, Estimate, NotRun, Sample
from evidence.protocol import OWN, QUESTIONS, TEST_SEED, Ask, Page, Row, Run, asked
from foveate.tasks import examples

Result = dict[str, Any]


def read(page: Page, run: Run) -> Result | None:
    """A run's result, of this very recipe and these very questions; None before it is made."""
    wanted = asked(page, run)
    own = _document(page.file(run.name))
    if own is not None and own["asked"] == wanted:
        return own
    lent = _document(replace(page, name=page.lender).file(run.name)) if page.lender else None
    return lent if lent is not None and _covers(lent["asked"], wanted) else None


def _document(path: Path) -> Result | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and {"asked", "answers"} <= found.keys():
        return found
    warnings.warn(f"{path} is no result: its run is to be made again")
    return None


def _covers(there: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a result holds what is wanted: the same training and questions, other methods besides."""
    return {**there, "asks": there.get("asks", [])[: len(wanted["asks"])]} == wanted


def missing(page: Page) -> list[str]:
    """The runs that are still to be made, by name."""
    return [run.name for run in page.runs() if read(page, run) is None]


class Question(NamedTuple):
    """The group that a test question belongs to, and the scene it is about."""

    group: str
    scene: str


@cache
def questions(task: str = "patchqa", n: int = QUESTIONS) -> tuple[Question, ...]:
    """The test's questions. A scene is its pictures: questions about the same ones are of one scene."""
    return tuple(Question(e.group, _digest(e.images)) for e in examples(task, n, TEST_SEED))


def _digest(images: Sequence[Image]) -> str:
    return hashlib.sha1(b"".join(image.tobytes() for image in images)).hexdigest()


@dataclass(frozen=True)
class Found:
    """What a row's runs have found, asked in one way. What is not run yet is NOT_RUN.

    rows  all rows of the page by name, to measure distances to
    """

    page: Page
    row: Row
    results: Mapping[int, Result]
    rows: Mapping[str, Found] = field(repr=False)
    ask: Ask = OWN

    @property
    def called(self) -> str:
        """What tables call it."""
        return self.row.called

    def asked(self, method: str = OWN.method, **arguments: Any) -> Found:
        """The same weights, asked with another method or with other arguments of their own."""
        return replace(self, ask=Ask(method, arguments))

    @property
    def answers(self) -> dict[int, dict[str, Any]]:
        """By seed, how the runs answered; without those that were not asked so."""
        wanted, found = [self.ask.method, dict(self.ask.arguments)], {}
        for seed, result in self.results.items():
            asks = result["asked"]["asks"]
            if wanted in asks:
                found[seed] = result["answers"][asks.index(wanted)]
        return found

    def mean(self, name: str) -> float | NotRun:
        """The mean over seeds of what is written with the answers, "tokens" say."""
        told = [answer[name] for answer in self.answers.values()]
        return fmean(told) if told else NOT_RUN

    @property
    def tokens(self) -> float | NotRun:
        """Visual tokens that are left in the end."""
        return self.mean("tokens")

    def right(self, group: str | None = None) -> Sample:
        """A 1 or 0 for every question, or for every one of a group."""
        task = self.row.recipe.data if self.row.recipe else "patchqa"
        told = questions(task, self.page.questions)
        values = {s: [int(c) for c in answer["right"]] for s, answer in self.answers.items()}
        which = [i for i, question in enumerate(told) if group in (None, question.group)]
        return Sample(values, [question.scene for question in told]).of(which)

    @property
    def accuracy(self) -> Estimate | NotRun:
        """The share of the questions that it answers right."""
        return self.right().estimate()

    def by(self, group: str) -> Estimate | NotRun:
        """The share of a group."""
        return self.right(group).estimate()

    def to(self, other: Found, group: str | None = None) -> Estimate | NotRun:
        """How far it is above another, question by question, on the seeds that both have."""
        return (self.right(group) - other.right(group)).estimate()

    @property
    def baseline(self) -> Found:
        """The row of all tokens."""
        return self.rows[self.row.baseline]

    @property
    def neighbour(self) -> Found:
        """The row that it differs from in one thing."""
        return self.rows[self.row.beside]

    @property
    def far(self) -> Estimate | NotRun:
        """How far it is above the baseline."""
        return self.to(self.baseline)

    def far_by(self, group: str) -> Estimate | NotRun:
        """The same of a group of questions."""
        return self.to(self.baseline, group)

    @property
    def near(self) -> Estimate | NotRun:
        """How far it is above its neighbour."""
        return self.to(self.neighbour)

    @property
    def spent(self) -> float | NotRun:
        """Multiply-accumulates of a run's forwards over training, all stages of it."""
        for one in self.results.values():
            stages = [one[stage] for stage in ("before", "training") if stage in one]
            return sum(stage["steps"] * stage["cost"]["macs"] for stage in stages)
        return NOT_RUN

    @property
    def cost(self) -> float | NotRun:
        """The same in a ratio to the baseline's."""
        return self.spent / self.baseline.spent

    @property
    def macs(self) -> float | NotRun:
        """The language model's work for a question, in a ratio to the baseline's."""
        return self.mean("language_macs") / self.baseline.mean("language_macs")

    def told(self, *keys: str) -> dict[int, Any]:
        """By seed, what a measure wrote under these keys; without seeds that lack it."""
        found: dict[int, Any] = dict(self.results)
        for key in keys:
            found = {seed: one[key] for seed, one in found.items() if key in one}
        return found

    def sample(self, *keys: str) -> Sample:
        """What a measure wrote as a string of numbers under these keys, each of a scene of its own."""
        values = {s: [float(n) for n in text.split()] for s, text in self.told(*keys).items()}
        return Sample(values, range(max(map(len, values.values()), default=0)))

    def measured(self, *keys: str) -> Estimate | NotRun:
        """The mean of such numbers."""
        return self.sample(*keys).estimate()


def rows(page: Page) -> dict[str, Found]:
    """All rows of a page by name, with the results that are there."""
    found: dict[str, Found] = {}
    for row in page.rows:
        results = {seed: read(page, run) for seed, run in row.runs().items()}
        there = {seed: result for seed, result in results.items() if result is not None}
        found[row.name] = Found(page, row, there, found)
    return found
