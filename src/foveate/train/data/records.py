"""Training data in LLaVA's form, read from disk record by record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.chat import MARK, Turn
from foveate.train.data.index import scan

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
Fault = tuple[str, str]  # its kind, and what it is in this record


@dataclass(frozen=True)
class Record:
    """One conversation about images, or about none.

    where  its place in the file, for errors
    past   so many answers, from the first, are read and not learnt
    """

    id: str
    images: tuple[Path | Image.Image, ...]
    turns: tuple[Turn, ...]
    where: str
    past: int = 0


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
    its own, so that threads, forks and pickles need no care. `has_images`, `questions` and `imaged` are
    known from the one pass over the file. A broken record raises MalformedError when it is read.
    """

    def __init__(self, path: Path | str, images: Path | str = "."):
        self.path, self.folder = Path(path), Path(images)
        self.index = scan(self.path)

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

    def __len__(self) -> int:
        return len(self.index.starts)

    def __getitem__(self, i: int) -> Record:
        if not -len(self) <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        where = f"{self.path.name}, line {self.index.lines[i]}"
        value = self.read(i, where)
        if wrong := faults(value):
            raise MalformedError(where, wrong)
        turns = (Turn(ROLES[t["from"]], t["value"]) for t in value["conversations"])
        paths = (self.folder / name for name in names(value))
        return Record(str(value.get("id", i)), tuple(paths), tuple(turns), where)

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def read(self, i: int, where: str) -> Any:
        """The JSON value of a record."""
        with self.path.open("rb") as file:
            file.seek(int(self.index.starts[i]))
            text = file.read(int(self.index.sizes[i]))
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedError(where, [("broken JSON", f"broken JSON: {error}")]) from None


def names(value: dict[str, Any]) -> list[str]:
    """The image paths of a record as the file has them."""
    found = value.get("image") or []
    return [found] if isinstance(found, str) else found


def faults(value: Any) -> list[Fault]:
    """Everything that is wrong with the JSON value of a record, files aside."""
    if not isinstance(value, dict):
        return [("no object", f"want an object, found {type(value).__name__}")]
    found: list[Fault] = []
    paths = names(value)
    if not isinstance(paths, list) or not all(isinstance(p, str) and p for p in paths):
        found.append(("image paths", f'"image" is {paths!r}; want a path or a list of paths'))
        paths = []
    if value.get("video"):
        found.append(("a video", '"video" is not read; give its frames as a list under "image"'))
    turns = value.get("conversations")
    if not isinstance(turns, list) or not turns:
        what = "is empty" if turns == [] else "is missing" if turns is None else "is no list"
        return [*found, ("conversations", f'"conversations" {what}')]
    if wrong := [fault for n, turn in enumerate(turns, 1) for fault in misshapen(n, turn)]:
        return found + wrong
    return found + order(turns) + marks(turns, len(paths))


def misshapen(n: int, turn: Any) -> list[Fault]:
    """What is wrong with the n-th turn by itself."""
    if not isinstance(turn, dict):
        return [("turns", f"turn {n} is no object")]
    found = [("keys", f'turn {n} has no "{k}"') for k in ("from", "value") if k not in turn]
    role, text = turn.get("from", "gpt"), turn.get("value", "?")
    if not isinstance(role, str) or role not in ROLES:
        found.append(("roles", f"turn {n} is from {role!r}; want human or gpt"))
    if not isinstance(text, str):
        found.append(("text", f"the value of turn {n} is no text"))
    elif not text.strip():
        what = "answer" if ROLES.get(str(role)) == "assistant" else "question"
        found.append((f"empty {what}", f"turn {n} is an empty {what}"))
    return found


def order(turns: list[dict[str, str]]) -> list[Fault]:
    """Human and gpt in turn, from the human's first word to an answer at the end."""
    roles = [ROLES[turn["from"]] for turn in turns]
    found = []
    if roles[0] != "user":
        found.append(("roles", "the first turn is from gpt; want human"))
    for n, (before, role) in enumerate(pairwise(roles), 2):
        if before == role:
            found.append(("roles", f"turns {n - 1} and {n} are both from {turns[n - 1]['from']}"))
    if roles[-1] != "assistant":
        found.append(("roles", "the last turn is from human and has no answer"))
    return found


def marks(turns: list[dict[str, str]], images: int) -> list[Fault]:
    """One mark for each image, in what the human says."""
    counts = [turn["value"].count(MARK) for turn in turns]
    found = []
    if sum(counts) != images:
        found.append(("marks and images", f"{sum(counts)} {MARK} marks and {images} images"))
    for n, (turn, count) in enumerate(zip(turns, counts, strict=True), 1):
        if count and ROLES[turn["from"]] == "assistant":
            found.append(("image in an answer", f"turn {n} is an answer with an {MARK} mark"))
    return found
