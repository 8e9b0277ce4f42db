"""Questions of a data set that the `datasets` library reads: a folder it saved, or a name on the Hub."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from foveate.records import asked
from foveate.records.asked import Question
from foveate.records.questions import renamed
from foveate.records.rows import MalformedError

HUB = "hf:"
PICTURES = ("image", "images")
SAVED = ("dataset_info.json", "dataset_dict.json")


class HubQuestions(Sequence[Question]):
    """The rows of a data set as questions; pictures are decoded when their row is read.

    columns: what the data set calls our keys, {"question": "query"}. Raises ValueError for a column that it
    does not have.
    """

    def __init__(self, data: Any, path: str, columns: Mapping[str, str]):
        self.data, self.path, self.columns = data, path, dict(columns)
        self.rows = np.arange(len(data))
        if lost := [name for name in self.columns.values() if name not in data.column_names]:
            raise ValueError(
                f"{path}: no column {lost[0]!r}; there are {', '.join(data.column_names)}"
            )

    @classmethod
    def named(cls, name: str, columns: Mapping[str, str]) -> Self:
        """hf:NAME:SPLIT, or the folder of a data set that was saved. Raises ValueError for others."""
        place, _, split = name.removeprefix(HUB).partition(":")
        saved = any((Path(place) / mark).is_file() for mark in SAVED)
        if Path(place).is_dir() and not saved and not name.startswith(HUB):
            raise ValueError(
                f"{place} is a folder that `datasets` did not save: want a file, or hf:NAME:SPLIT"
            )
        if find_spec("datasets") is None:
            raise ImportError(f'--task {name} needs datasets: pip install "foveate[train]"')
        import datasets

        read = (
            datasets.load_from_disk
            if saved
            else functools.partial(datasets.load_dataset, split=split or None)
        )
        found = read(place)
        if isinstance(found, Mapping):
            if split not in found:
                raise ValueError(f"--task hf:{place}:SPLIT: want a split of {', '.join(found)}")
            found = found[split]
        return cls(found, name, columns)

    @functools.cached_property
    def digest(self) -> str:
        """A short name for these very questions, their pictures aside."""
        seen = {self.columns.get(name, name) for name in PICTURES}
        told = self.data.remove_columns([n for n in self.data.column_names if n in seen])
        sha = hashlib.sha256(repr((self.path, sorted(self.columns.items()))).encode())
        for n in self.rows.tolist():
            sha.update(repr(told[n]).encode(errors="backslashreplace"))
        return sha.hexdigest()[:16]

    @property
    def keys(self) -> list[str]:
        """The key of every question: its row, from 1."""
        return [str(n + 1) for n in self.rows.tolist()]

    @property
    def unknown(self) -> dict[str, int]:
        """Of each column that is not read, how many questions have it."""
        known = {*asked.KEYS, *self.columns.values()}
        return {name: len(self) for name in self.data.column_names if name not in known}

    def only(self, which: np.ndarray) -> Self:
        """These alone, which keep their keys."""
        some = type(self)(self.data, self.path, self.columns)
        some.rows = self.rows[which]
        return some

    def without(self, which: Sequence[int]) -> Self:
        """All but these, which keep their keys."""
        return self.only(np.setdiff1d(np.arange(len(self)), which))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int | slice) -> Question | list[Question]:
        if isinstance(i, slice):
            return [self[n] for n in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"question {i} of {len(self)}")
        number = int(self.rows[i])
        value = renamed(self.data[number], self.columns)
        images = _pictures(value)
        where = f"{self.path}, row {number + 1}"
        told = {name: one for name, one in value.items() if name not in PICTURES}
        if wrong := asked.wrong(told | {"images": [str(n) for n in range(len(images))]}):
            raise MalformedError(where, wrong)
        return asked.made(told, images, number, where)

    def __iter__(self) -> Iterator[Question]:
        return (self[i] for i in range(len(self)))


def _pictures(value: Mapping[str, Any]) -> tuple[Any, ...]:
    """The pictures of a row: decoded ones, or the paths of files."""
    found = value.get("image") or value.get("images") or ()
    every = [found] if isinstance(found, Image.Image | str | Path) else found
    return tuple(Path(one) if isinstance(one, str) else one for one in every)
