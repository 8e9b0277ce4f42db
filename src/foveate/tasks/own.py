"""A task of one's own: questions from a file, a folder of `datasets` or the Hub, checked and scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.records.checking import Problem, check, refuse
from foveate.records.questions import Questions
from foveate.tasks.hub import HUB, HubQuestions
from foveate.tasks.metrics import EXACT, METRICS, Metric, labels
from foveate.tasks.named import TASKS, examples, nearest

KEYS = 12  # unknown keys that are named


@dataclass(frozen=True)
class Own:
    """How questions of one's own are read and scored.

    metric   a name of METRICS
    columns  what a file calls our keys: {"question": "query"}
    images   the folder that picture paths start from; None: the file's own
    outside  pictures may lie outside of it
    skip     leave out what cannot be asked, with a warning, instead of refusing all
    """

    metric: str = EXACT.name
    columns: Mapping[str, str] = field(default_factory=dict)
    images: Path | None = None
    outside: bool = False
    skip: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.columns, Mapping):
            raise TypeError(f'columns={self.columns!r}: want a dict, {{"question": "query"}}')
        if self.metric not in METRICS:
            raise ValueError(
                f"unknown metric {self.metric!r}: {nearest(self.metric, METRICS)}there are "
                f"{', '.join(METRICS)}"
            )


@dataclass(frozen=True)
class Task:
    """Questions, read one by one where they come from a file, and how their answers are scored."""

    name: str
    examples: Sequence[Any]
    metric: Metric = EXACT


def is_own(name: str) -> bool:
    """Whether a task's name means a file, a folder or a data set, and none of TASKS."""
    path = Path(name)
    return name not in TASKS and (name.startswith(HUB) or path.suffix != "" or path.exists())


def task(
    name: str,
    limit: int | None = None,
    seed: int = 0,
    own: Own | None = None,
    advance: Callable[[int], None] | None = None,
) -> Task:
    """A task by its name, with its first `limit` questions; None: all of a file.

    name: one of TASKS; a JSON, JSONL, CSV or TSV file; a folder that `datasets` saved; or hf:NAME:SPLIT.
    advance hears how many questions of one's own were looked at. Raises ValueError for names that are none,
    and DataError with all that is wrong with the questions and their pictures.
    """
    own = own or Own()
    metric = METRICS[own.metric]
    if is_own(name):
        return Task(_called(name), _checked(_opened(name, own), limit, own, advance), metric)
    if own != Own(metric=own.metric):
        raise ValueError(
            f"columns, images, outside and skip are for files: {name} is a task of foveate"
        )
    some = examples(name, limit or 220, seed)
    if what := metric.fault(labels(some[0])):
        raise ValueError(f"metric {metric.name} on {name}: {what}")
    return Task(name, some, metric)


def _called(name: str) -> str:
    return name.removeprefix(HUB).replace(":", "-") if name.startswith(HUB) else Path(name).stem


def _opened(name: str, own: Own) -> Questions | HubQuestions:
    if name.startswith(HUB) or Path(name).is_dir():
        return HubQuestions.named(name, own.columns)
    return Questions(name, own.images, own.columns, own.outside)


def _checked(
    found: Questions | HubQuestions, limit: int | None, own: Own, advance: Any
) -> Questions | HubQuestions:
    """The first of these questions, without those that cannot be asked where that is wanted."""
    if limit is not None and limit < len(found):
        found = found.only(np.arange(limit))
    metric = METRICS[own.metric]

    def unscorable(question: Any) -> tuple[str, str] | None:
        what = metric.fault(labels(question))
        return (f"labels for {metric.name}", what) if what else None

    _name_unknown(found)
    wrong = check(found, advance, also=unscorable)
    bad = sorted({problem.record for problem in wrong})
    if bad and (not own.skip or len(bad) == len(found)):
        refuse(
            [wrong],
            [found],
            "and nothing is left to ask" if own.skip else "(--skip, or skip=True, leaves them out)",
        )
    if bad:
        _told(found, wrong, len(bad))
        found = found.without(bad)
    return found


def _told(found: Questions | HubQuestions, wrong: Sequence[Problem], bad: int) -> None:
    are = "is" if bad == 1 else "are"
    warnings.warn(
        f"{found.path}: {bad:,} of {len(found):,} questions {are} left out, the first: {wrong[0]}"
    )


def _name_unknown(found: Questions | HubQuestions) -> None:
    """Tell a person which keys nothing reads, those of most questions first."""
    unknown = sorted(found.unknown.items(), key=lambda one: -one[1])[:KEYS]
    if unknown:
        told = ", ".join(f"{key!r} in {n:,}" for key, n in unknown)
        warnings.warn(f"{found.path}: keys that are not read, and in how many questions: {told}")
