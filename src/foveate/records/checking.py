"""What is wrong with a set of records, all of it, before anything is made of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from PIL import Image

from foveate.chat.pictures import trouble
from foveate.records.faults import Fault
from foveate.records.rows import MalformedError, Rows

WINDOW = 512  # records looked at together
Seen = dict[int, Fault | None]  # by the hash of a path: a set may name millions of them


class Pictured(Protocol):
    """What has pictures, in files or in memory, and knows where it stands."""

    images: Sequence[Path | Image.Image]
    where: str


class Problem(NamedTuple):
    """Where a record stands, what is wrong with it, of what kind that is, and which record, from 0."""

    where: str
    what: str
    kind: str
    record: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class DataError(ValueError):
    """What is wrong with the data: a line for each problem, and a last one that counts them."""


def check(
    records: Sequence[Pictured],
    advance: Callable[[int], None] | None = None,
    workers: int | None = None,
    also: Callable[[Any], Fault | None] | None = None,
) -> list[Problem]:
    """Read every record and decode every picture, each file once; list what is wrong, in order.

    advance is called with the number of records just looked at; workers are threads; also is asked for
    one more fault of every record that can be read.
    """
    problems: list[Problem] = []
    seen: Seen = {}
    with ThreadPoolExecutor(workers or 2 * (os.cpu_count() or 1)) as pool:
        for first in range(0, len(records), WINDOW):
            window = range(first, min(first + WINDOW, len(records)))
            looked = [look(records, i) for i in window]
            named = {hash(s): s for found in looked for s in paths(found)}
            new = {key: s for key, s in named.items() if key not in seen}
            seen.update(zip(new, pool.map(trouble, new.values()), strict=True))
            for i, found in zip(window, looked, strict=True):
                problems += judged(i, found, seen, also)
            if advance is not None:
                advance(len(window))
    return problems


def look(records: Sequence[Pictured], i: int) -> Pictured | MalformedError:
    """A record, or all that is wrong with it."""
    try:
        return records[i]
    except MalformedError as error:
        return error


def paths(found: Pictured | MalformedError) -> list[Path]:
    """The picture files of a record."""
    images = () if isinstance(found, MalformedError) else found.images
    return [source for source in images if isinstance(source, Path)]


def judged(
    i: int,
    found: Pictured | MalformedError,
    seen: Seen,
    also: Callable[[Any], Fault | None] | None,
) -> Iterator[Problem]:
    """The problems of one record; a picture it names twice is one problem."""
    if isinstance(found, MalformedError):
        faults: Iterable[Fault | None] = found.faults
    else:
        held = [trouble(source) for source in found.images if isinstance(source, Image.Image)]
        files = (seen[key] for key in dict.fromkeys(map(hash, paths(found))))
        faults = [*held, *files, also and also(found)]
    return (Problem(found.where, fault[1], fault[0], i) for fault in faults if fault)


def listed(problems: Sequence[Problem], most: int = 20) -> str:
    """The first problems, a line each, and how many more there are of which kind."""
    lines = [str(problem) for problem in problems[:most]]
    if rest := Counter(problem.kind for problem in problems[most:]):
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in rest.most_common())
        lines.append(f"… and {rest.total():,} more: {kinds}")
    return "\n".join(lines)


def refuse(found: Sequence[Sequence[Problem]], sets: Sequence[Rows], more: str = "") -> NoReturn:
    """Raise DataError with what is wrong with these sets."""
    problems = [problem for some in found for problem in some]
    many = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    files = " and ".join(str(some.path) for some in sets)
    raise DataError(f"{listed(problems)}\n{many} in {files}{f' {more}' if more else ''}")
