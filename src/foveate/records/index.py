"""Where each record of a file stands, found in one pass that keeps nothing but numbers."""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from foveate.records.faults import place, why

CHUNK = 1 << 20  # bytes read at a time
STRANGE = 1000  # unknown keys that are told apart; a file may have as many as records
LITERAL = 16  # what is broken further from the end of a chunk than this is not just cut off there
SPACES = re.compile(r"[ \t\r\n]*")

Entry = tuple[int, int, int, Any]  # first byte, bytes, line from 1, and what stands there


@dataclass(frozen=True)
class Index:
    """Arrays (records,) of what each record is, found without holding any.

    starts, sizes   its first byte, and its bytes
    lines           its line in the file, from 1
    shapes          (records, k) what more is known of it, in whole numbers
    unknown         of each key that nothing reads, how many records have it; "conversations.x" of turns
    """

    starts: np.ndarray
    sizes: np.ndarray
    lines: np.ndarray
    shapes: np.ndarray
    unknown: dict[str, int]


def scan(
    path: Path,
    shape: Callable[[Any], tuple[int, ...]],
    strange: Callable[[Any], Iterable[str]],
    found: Callable[[BinaryIO, Path], Iterator[Entry]] | None = None,
) -> Index:
    """Find the records of a JSON list, or of a file with one JSON value per line; or as `found` does.

    shape and strange say of a record's value, which may be broken, what more is to be known and which keys
    nothing reads. A line that is no JSON gets its entry too, so that it can be named with all other
    problems. A list that breaks off cannot be read any further: ValueError with record and line; the same
    without a record.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no file: want a JSON list, or one record per line")
    places, shapes, unknown = array("q"), array("i"), Counter()
    with path.open("rb") as file:
        for *place, value in (found or entries)(file, path):
            places.extend(place)
            shapes.extend(shape(value))
            for key in strange(value):
                unknown[key if key in unknown or len(unknown) < STRANGE else "…"] += 1
    if not places:
        raise ValueError(f"{path}: holds no record")
    starts, sizes, lines = np.asarray(places).reshape(-1, 3).T
    return Index(starts, sizes, lines, np.asarray(shapes).reshape(len(starts), -1), dict(unknown))


def entries(file: BinaryIO, path: Path) -> Iterator[Entry]:
    """The records of a JSON list, or the lines of a file that is none."""
    return elements(Reader(file, path)) if lead(file, path) == b"[" else rows(file)


def lead(file: BinaryIO, path: Path) -> bytes:
    """The first character that is no space; the file then stands at its beginning, behind UTF-8's mark.

    Raises ValueError for UTF-16.
    """
    mark = file.read(3)
    if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise ValueError(f"{path} is UTF-16: want UTF-8")
    begin = len(mark) if mark == codecs.BOM_UTF8 else 0
    file.seek(begin)
    found = b" "
    while found and found in b" \t\r\n":
        found = file.read(1)
    file.seek(begin)
    return found


def rows(file: BinaryIO) -> Iterator[Entry]:
    """The lines that are not blank."""
    start = file.tell()
    for line, text in enumerate(file, 1):
        if text.strip():
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = None
            yield start, len(text), line, value
        start += len(text)


def elements(reader: Reader) -> Iterator[Entry]:
    """The values of a JSON list; what is no object gets its entry too, as a line does."""
    reader.take("[")
    mark = reader.next()
    while mark != "]":
        reader.record += 1
        reader.next()
        start, line = reader.byte, reader.line
        value = reader.value()
        yield start, reader.byte - start, line, value
        mark = reader.next()
        if mark != "]":
            reader.take(",")
            mark = ","
    reader.take("]")
    if reader.next():
        reader.fail("something stands behind the list")


class Reader:
    """A file read forward as text, a chunk at a time; knows what byte, line and record it has come to."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.parse = json.JSONDecoder().raw_decode
        self.text, self.at = "", 0
        self.byte, self.line, self.record = file.tell(), 1, 0

    def fail(self, what: str, at: int | None = None) -> None:
        """Raise ValueError with the record, and the line of a character."""
        line = self.line + (0 if at is None else self.text.count("\n", self.at, at))
        raise ValueError(f"{place(self.path.name, self.record, line)}: broken JSON: {what}")

    def more(self) -> bool:
        """Read on, at least as much as is held, and let go of what was passed; False at the end."""
        held = self.text[self.at :]
        chunk = self.file.read(max(CHUNK, len(held)))
        try:
            self.text, self.at = held + self.decode(chunk, final=not chunk), 0
        except UnicodeDecodeError as error:
            self.fail(f"no UTF-8 here or below: {error}")
        return bool(chunk)

    def move(self, to: int) -> None:
        """Go forward to a character of the text."""
        passed = self.text[self.at : to]
        self.byte += len(passed.encode())
        self.line += passed.count("\n")
        self.at = to

    def next(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            self.move(SPACES.match(self.text, self.at).end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, mark: str) -> None:
        """Pass this character, which must stand here."""
        if (found := self.next()) != mark:
            missing = "]" if mark == "," else mark  # a list that ends is not closed
            self.fail(f"want {mark!r}, found {found!r}" if found else f"ends without {missing!r}")
        self.move(self.at + 1)

    def value(self) -> Any:
        """Pass the value that must stand here, and return it."""
        if (found := self.next()) in ("", ",", "]"):
            self.fail(f"want an object, found {found!r}")
        while True:
            begin = self.at
            try:
                value, end = self.parse(self.text, begin)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or len(self.text) - error.pos < LITERAL
                if not (cut and self.more()):
                    self.fail(why(error, begin), self.at + error.pos - begin)
            except (ValueError, RecursionError) as error:
                self.fail(why(error))
            else:
                if not isinstance(value, dict) and len(self.text) - end < LITERAL and self.more():
                    continue  # 12 may be the beginning of 123
                self.move(self.at + end - begin)
                return value
