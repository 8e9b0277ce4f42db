"""Conversations in LLaVA's form, read from disk record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foveate.chat import Record, Turn
from foveate.chat.pictures import is_video
from foveate.records.faults import ROLES, Fault, faults, names
from foveate.records.index import scan
from foveate.records.rows import MalformedError, Rows
from foveate.records.shape import shape, strange

WAY = "move it there, or let it: --set outside=true"


class Records(Rows[Record]):
    """The records of a JSON list or a JSONL file; image paths start from the folder `images`.

    `has_images`, `questions`, `imaged` and `unknown` are known from the one pass over the file. A broken
    record raises MalformedError when it is read; so does one that names a picture outside of the folder,
    unless outside says that it may.
    """

    def __init__(self, path: Path | str, images: Path | str = ".", outside: bool = False):
        super().__init__(Path(path), scan(Path(path), shape, strange), Path(images), outside)

    @property
    def has_images(self) -> np.ndarray:
        """Whether each record names images. (records,) bool."""
        return self.index.shapes[:, 0].astype(bool)

    @property
    def questions(self) -> np.ndarray:
        """How many questions each record asks. (records,)."""
        return self.index.shapes[:, 1]

    @property
    def imaged(self) -> np.ndarray:
        """With which question, from 0, the first image of each record comes. (records,)."""
        return self.index.shapes[:, 2]

    def made(self, value: Any, i: int, where: str) -> Record:
        """The record as it is trained on."""
        if wrong := faults(value) or unwatched(value):
            raise MalformedError(where, wrong)
        paths = self.pictures(names(value), where, WAY)
        name = value.get("id")
        return Record(str(self.number(i) if name is None else name), paths, turns(value), where)


def unwatched(value: dict[str, Any]) -> list[Fault]:
    """Its videos, which questions may have and training does not read."""
    what = 'is a video, which training does not read; give its frames as a list under "image"'
    return [("a video", f"{name} {what}") for name in names(value) if is_video(name)]


def turns(value: dict[str, Any]) -> tuple[Turn, ...]:
    """What is said in a sound record; a system prompt in front."""
    said = [Turn(ROLES[t["from"]], t["value"]) for t in value["conversations"]]
    told = said.pop(0).text if said[0].role == "system" else ""
    told = told if told.strip() else value.get("system") or ""
    return (*([Turn("system", told)] if told.strip() else []), *said)
