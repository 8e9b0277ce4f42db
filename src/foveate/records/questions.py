"""A file of questions, whatever its form, read question by question."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from foveate.records import asked
from foveate.records.asked import Question
from foveate.records.faults import names, place
from foveate.records.index import Entry, entries, lead, scan
from foveate.records.rows import MalformedError, Rows

TABLES = {".csv": ",", ".tsv": "\t"}
FORMS = (".json", ".jsonl", *TABLES)
WAY = "move it there, or let it: --outside"
AS_IT_IS: Mapping[str, str] = MappingProxyType({})


class Questions(Rows[Question]):
    """The questions of a JSON list, a JSONL file, LLaVA's conversations, or a table (.csv, .tsv).

    Pictures start from the file's own folder, unless `images` names another. columns: what this file calls
    our keys, {"question": "query"}. A conversation is asked question by question, each with what was said
    before. Raises ValueError for a file without a record and a table without such a column.
    """

    def __init__(
        self,
        path: Path | str,
        images: Path | str | None = None,
        columns: Mapping[str, str] = AS_IT_IS,
        outside: bool = False,
    ):
        path = Path(path)
        if path.suffix.lower() not in FORMS:
            raise ValueError(f"{path}: want a file of {', '.join(FORMS)}")
        if images is not None and not Path(images).is_dir():
            raise ValueError(f"images={images}: no such folder")
        self.columns, self.mark = dict(columns), TABLES.get(path.suffix.lower())
        self.head: tuple[str, ...] = ()
        index = scan(path, lambda told: told[:2], lambda told: _strange(*told), self._found)
        super().__init__(path, index, Path(images) if images else path.parent, outside)

    @property
    def digest(self) -> str:
        """A short name for these very questions: the file's bytes, how it is read, and which of it."""
        sha = hashlib.sha256(
            repr((sorted(self.columns.items()), self.index.starts.tobytes())).encode()
        )
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                sha.update(chunk)
        return sha.hexdigest()[:16]

    @property
    def keys(self) -> list[str]:
        """The key of every question, none of which is read for it."""
        return [
            str(n + 1) if ask < 0 else f"{n + 1}.{ask + 1}" for n, ask in self.index.shapes.tolist()
        ]

    def number(self, i: int) -> int:
        """Of the i-th question, the number of its record in the file, from 0."""
        return int(self.index.shapes[i, 0])

    def read(self, i: int) -> Any:
        """The value of a question's record, under our own keys."""
        value = super().read(i) if self.mark is None else self._cells(i)
        return renamed(value, self.columns)

    def made(self, value: Any, i: int, where: str) -> Question:
        """The question as it is asked."""
        if wrong := asked.wrong(value):
            raise MalformedError(where, wrong)
        paths = self.pictures(names(value), where, WAY)
        return asked.made(value, paths, self.number(i), where, max(0, int(self.index.shapes[i, 1])))

    def _found(self, file: BinaryIO, path: Path) -> Iterator[Entry]:
        """An entry for every question: (record, which question of it or −1 for the only one, value)."""
        rows = entries(file, path) if self.mark is None else self._rows(file, path)
        for n, (*where, value) in enumerate(rows):
            value = renamed(value, self.columns)
            many = asked.count(value)
            for ask in range(many):
                yield *where, (n, ask if many > 1 else -1, value)

    def _rows(self, file: BinaryIO, path: Path) -> Iterator[Entry]:
        """The rows of a table below its head, which may go over several lines."""
        lead(file, path)
        lines = Lines(file)
        reader, n = csv.reader(lines, delimiter=self.mark), 0
        self.head = tuple(cell.strip() for cell in next(reader, ()))
        if len(self.head) == 1 and ";" in self.head[0]:
            raise ValueError(f"{path} is separated by semicolons: want commas, or tabs in a .tsv")
        if lost := [name for name in self.columns.values() if name not in self.head]:
            raise ValueError(f"{path}: no column {lost[0]!r}; there are {', '.join(self.head)}")
        while True:
            start, line = lines.byte, lines.line + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ValueError(
                    f"{place(path.name, n + 1, line)}: broken table: {error}"
                ) from error
            if cells is None:
                return
            if cells:
                n += 1
                yield start, lines.byte - start, line, dict(zip(self.head, cells, strict=False))

    def _cells(self, i: int) -> dict[str, Any]:
        """A row of the table. Raises MalformedError where it has not as many cells as the head."""
        text = self.text(i).decode(errors="surrogateescape")
        (cells,) = csv.reader(io.StringIO(text, newline=""), delimiter=self.mark)
        if len(cells) != len(self.head):
            what = f"{len(cells)} cells under {len(self.head)} names"
            raise MalformedError(self.where(i), [("cells", what)])
        ours = {theirs: name for name, theirs in self.columns.items()}
        pairs = zip(self.head, cells, strict=True)
        return {name: asked.cell(ours.get(name, name), text) for name, text in pairs}


class Lines:
    """The lines of a file as text, and how many bytes and lines were passed."""

    def __init__(self, file: BinaryIO):
        self.file, self.byte, self.line = file, file.tell(), 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = next(self.file)
        self.byte += len(line)
        self.line += 1
        return line.decode(errors="surrogateescape")


def renamed(value: Any, columns: Mapping[str, str]) -> Any:
    """A record under our keys: what it calls them is in `columns`."""
    if not columns or not isinstance(value, Mapping):
        return value
    rest = {name: one for name, one in value.items() if name not in columns.values()}
    return rest | {ours: value[theirs] for ours, theirs in columns.items() if theirs in value}


def _strange(record: int, ask: int, value: Any) -> set[str]:
    return asked.strange(value) if ask <= 0 else set()
