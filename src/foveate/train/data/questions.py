"""Conversations question by question: a row for each, with what was said before it as its past."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from foveate.chat import MARK, Record


class ByQuestion(Sequence[Record]):
    """A data set of conversations as a row for every question, in the file's order.

    A row ends with the answer to its question; answers before it are read and not learnt, and of the
    record's images it has those of its turns. No record is read for it if the data say, for each,
    `questions`, how many it asks, and `has_images`; with which of its questions, from 0, the first image
    comes is `imaged`, and 0 where they do not say. Other data are read once.
    """

    def __init__(self, records: Sequence[Record]):
        self.records = records
        if hasattr(records, "questions") and hasattr(records, "has_images"):
            questions, has_images = np.asarray(records.questions), np.asarray(records.has_images)
            imaged = np.asarray(getattr(records, "imaged", np.zeros_like(questions)))
        else:
            read = [counted(record) for record in records]
            questions, imaged, has_images = np.array(read, dtype=np.int64).reshape(-1, 3).T
        self.questions = questions
        self.imaged = np.where(has_images, imaged, questions)
        self.ends = questions.cumsum(dtype=np.int64)

    @property
    def has_images(self) -> np.ndarray:
        """Whether each row has images. (rows,) bool."""
        asked_before = np.repeat(self.ends - self.questions, self.questions)
        return np.arange(len(self)) - asked_before >= np.repeat(self.imaged, self.questions)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, row: int) -> Record:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        record = int(np.searchsorted(self.ends, row, side="right"))
        return at(self.records[record], row - (int(self.ends[record - 1]) if record else 0))

    def __iter__(self) -> Iterator[Record]:
        return (row for record in self.records for row in rows(record))


class StreamByQuestion(IterableDataset):
    """The same of a data set without a length, as its records come."""

    def __init__(self, records: Any):
        self.records = records

    def __iter__(self) -> Iterator[Record]:
        return (row for record in self.records for row in rows(record))

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch's, for data that care."""
        if hasattr(self.records, "set_epoch"):
            self.records.set_epoch(epoch)


def by_question(records: Any) -> Any:
    """A data set question by question; None stays None."""
    if records is None:
        return None
    return (ByQuestion if hasattr(records, "__len__") else StreamByQuestion)(records)


def counted(record: Record) -> tuple[int, int, bool]:
    """How many questions a record asks, with which the first image comes, and whether any does."""
    ends = answers(record)
    marked = (n for n, turn in enumerate(record.turns) if MARK in turn.text)
    first = next(marked, 0)
    return len(ends), sum(end < first for end in ends), bool(record.images)


def rows(record: Record) -> list[Record]:
    """All rows of a record."""
    return [at(record, n) for n in range(len(answers(record)))]


def at(record: Record, n: int) -> Record:
    """The record up to the answer to its n-th question, from 0, which alone is learnt."""
    ends = answers(record)
    if len(ends) == 1:
        return record
    turns = record.turns[: ends[n] + 1]
    images = record.images
    if n + 1 < len(ends):
        images = images[: sum(turn.text.count(MARK) for turn in turns)]
    where = f"{record.where}, question {n + 1}"
    return replace(record, images=images, turns=turns, where=where, past=n)


def answers(record: Record) -> list[int]:
    """The turns that answer."""
    return [n for n, turn in enumerate(record.turns) if turn.role == "assistant"]


def several(what: str) -> str:
    """What it means to read all questions of a conversation at once."""
    return (
        f"the method reads what is asked, and {what}: the visual tokens that the first answer is learnt "
        "with have then seen the later questions; set split=True for a row for each question"
    )
