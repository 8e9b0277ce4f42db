"""Training data in LLaVA's form, read from disk record by record."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from foveate.chat import Record, Turn
from foveate.train.data.faults import ROLES, Fault, faults, names, place, why
from foveate.train.data.index import scan


class MalformedError(ValueError):
    """A record that cannot be trained on, with everything that is wrong in it."""

    def __init__(self, where: str, faults: Sequence[Fault]):
        super().__init__(where, faults)  # so that it comes whole out of a data loader's worker
        self.where, self.faults = where, tuple(faults)

    def __str__(self) -> str:
        return f"{self.where}: {'; '.join(what for _, what in self.faults)}"


class Records(Sequence[Record]):
    """The records of a JSON list or a JSONL file; image paths start from the folder `images`.

    Only the places of the records are held; each is read when it is asked for, with a file handle of
    its own, so that threads, forks and pickles need no care. `has_images`, `questions`, `imaged` and
    `unknown` are known from the one pass over the file. A broken record raises MalformedError when it is
    read; so does one that names a picture outside of the folder, unless outside says that it may.
    """

    def __init__(self, path: Path | str, images: Path | str = ".", outside: bool = False):
        self.path, self.folder, self.outside = Path(path), Path(images), outside
        self.index = scan(self.path)
        self.left: np.ndarray | None = None  # which of the file's records these are; None: all

    @property
    def has_images(self) -> np.ndarray:
        """Whether each record names images. (records,) bool."""
        return self.index.images

    @property
    def questions(self) -> np.ndarray:
        """How many questions each record asks. (records,)."""
        return self.index.questions

    @property
    def imaged(self) -> np.ndarray:
        """With which question, from 0, the first image of each record comes. (records,)."""
        return self.index.imaged

    @property
    def unknown(self) -> dict[str, int]:
        """Of each key that is not read, how many records of the file have it."""
        return self.index.unknown

    def without(self, records: Sequence[int]) -> Records:
        """All but these, which keep their numbers. records: counted from 0, as these are."""
        stay = np.ones(len(self), dtype=bool)
        stay[list(records)] = False
        columns = {k: v[stay] for k, v in vars(self.index).items() if isinstance(v, np.ndarray)}
        some = copy.copy(self)
        some.index = replace(self.index, **columns)
        some.left = np.flatnonzero(stay) if self.left is None else self.left[stay]
        return some

    def __len__(self) -> int:
        return len(self.index.starts)

    def __getitem__(self, i: int) -> Record:
        if not -len(self) <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        number = i % len(self) if self.left is None else int(self.left[i])
        value = self.read(i, number)
        name = value.get("id") if isinstance(value, dict) else None
        where = self.where(i, number, name)
        if wrong := faults(value):
            raise MalformedError(where, wrong)
        paths = [self.folder / path for path in names(value)]
        if wrong := self.escaped(paths):
            raise MalformedError(where, wrong)
        turns = [Turn(ROLES[t["from"]], t["value"]) for t in value["conversations"]]
        told = turns.pop(0).text if turns[0].role == "system" else ""
        told = told if told.strip() else value.get("system") or ""
        system = [Turn("system", told)] if told.strip() else []
        return Record(str(number if name is None else name), tuple(paths), (*system, *turns), where)

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def where(self, i: int, number: int, name: Any = None) -> str:
        """The place of a record, for errors."""
        return place(self.path.name, number + 1, int(self.index.lines[i]), name)

    def read(self, i: int, number: int) -> Any:
        """The JSON value of a record."""
        with self.path.open("rb") as file:
            file.seek(int(self.index.starts[i]))
            text = file.read(int(self.index.sizes[i]))
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            wrong = [("broken JSON", f"broken JSON: {why(error)}")]
            raise MalformedError(self.where(i, number), wrong) from None

    def escaped(self, paths: Sequence[Path]) -> list[Fault]:
        """The paths that lead out of the images folder, by themselves or by links on their way."""
        if self.outside or not paths:
            return []
        root = real(str(self.folder)).rstrip(os.sep) + os.sep
        way = "move it there, or let it: --set outside=true"
        return [
            ("outside of the images folder", f"{path} lies outside of {self.folder}: {way}")
            for path in dict.fromkeys(paths)
            if not where_it_leads(path).startswith(root)
        ]


real = lru_cache(4096)(os.path.realpath)  # of folders: sets name many files of few


def where_it_leads(path: Path) -> str:
    """A path without links and detours; names that no file can have are as they stand."""
    if path.name in ("", "..") or os.path.islink(path):  # noqa: PTH114 - Path's raises
        return os.path.realpath(path)
    return f"{real(str(path.parent)).rstrip(os.sep)}{os.sep}{path.name}"
