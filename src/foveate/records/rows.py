"""A file's records, each read when it is asked for, with all that is wrong in it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from foveate.records.faults import Fault, place, why
from foveate.records.index import Index

T = TypeVar("T")


class MalformedError(ValueError):
    """A record that cannot be used, with everything that is wrong in it."""

    def __init__(self, where: str, faults: Sequence[Fault]):
        super().__init__(where, faults)  # so that it comes whole out of a data loader's worker
        self.where, self.faults = where, tuple(faults)

    def __str__(self) -> str:
        return f"{self.where}: {'; '.join(what for _, what in self.faults)}"


class Rows(Sequence[T]):
    """The records of a file; image paths start from the folder `images`.

    Only their places are held; each is read when it is asked for, with a file handle of its own, so that
    threads, forks and pickles need no care. A broken one raises MalformedError when it is read; so does one
    that names a picture outside of the folder, unless outside says that it may.
    """

    def __init__(self, path: Path, index: Index, images: Path, outside: bool):
        self.path, self.index, self.folder, self.outside = path, index, images, outside
        self.left: np.ndarray | None = None  # which of the file's records these are; None: all

    @property
    def unknown(self) -> dict[str, int]:
        """Of each key that is not read, how many records of the file have it."""
        return self.index.unknown

    def made(self, value: Any, i: int, where: str) -> T:
        """What the value of the i-th of these becomes. Raises MalformedError."""
        raise NotImplementedError

    def number(self, i: int) -> int:
        """Of the i-th of these, its number in the file, from 0."""
        return i if self.left is None else int(self.left[i])

    def without(self, records: Sequence[int]) -> Self:
        """All but these, which keep their numbers. records: counted from 0, as these are."""
        stay = np.ones(len(self), dtype=bool)
        stay[list(records)] = False
        return self.only(np.flatnonzero(stay))

    def only(self, records: np.ndarray) -> Self:
        """These alone, which keep their numbers. records: counted from 0, as these are."""
        some = copy.copy(self)
        columns = {k: v[records] for k, v in vars(self.index).items() if isinstance(v, np.ndarray)}
        some.index = replace(self.index, **columns)
        some.left = records if self.left is None else self.left[records]
        return some

    def __len__(self) -> int:
        return len(self.index.starts)

    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self[n] for n in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        i %= len(self)
        value = self.read(i)
        name = value.get("id") if isinstance(value, dict) else None
        return self.made(value, i, self.where(i, name))

    def __iter__(self) -> Iterator[T]:
        return (self[i] for i in range(len(self)))

    def where(self, i: int, name: Any = None) -> str:
        """The place of a record, for errors."""
        return place(self.path.name, self.number(i) + 1, int(self.index.lines[i]), name)

    def text(self, i: int) -> bytes:
        """A record as it stands in the file."""
        with self.path.open("rb") as file:
            file.seek(int(self.index.starts[i]))
            return file.read(int(self.index.sizes[i]))

    def read(self, i: int) -> Any:
        """The JSON value of a record."""
        try:
            return json.loads(self.text(i))
        except (ValueError, RecursionError) as error:
            wrong = [("broken JSON", f"broken JSON: {why(error)}")]
            raise MalformedError(self.where(i), wrong) from None

    def pictures(self, names: Sequence[str], where: str, way: str) -> tuple[Path, ...]:
        """The files of these names. Raises MalformedError for those that lead out of the images folder.

        By themselves or by links on their way; way: how to let them.
        """
        paths = [self.folder / name for name in names]
        if self.outside or not paths:
            return tuple(paths)
        root = real(str(self.folder)).rstrip(os.sep) + os.sep
        wrong = [
            ("outside of the images folder", f"{path} lies outside of {self.folder}: {way}")
            for path in dict.fromkeys(paths)
            if not where_it_leads(path).startswith(root)
        ]
        if wrong:
            raise MalformedError(where, wrong)
        return tuple(paths)


real = lru_cache(4096)(os.path.realpath)  # of folders: sets name many files of few


def where_it_leads(path: Path) -> str:
    """A path without links and detours; names that no file can have are as they stand."""
    if path.name in ("", "..") or os.path.islink(path):  # noqa: PTH114 - Path's raises
        return os.path.realpath(path)
    return f"{real(str(path.parent)).rstrip(os.sep)}{os.sep}{path.name}"
