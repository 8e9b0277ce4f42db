"""What a folder holds, by size and checksum: written last, it tells what is cut, missing or changed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from foveate.keeping.provenance import dumps, sealed, unsealed, write

NAME = "manifest.json"
CHUNK = 1 << 22
Contents = dict[
    str, list[int]
]  # of files by name: bytes and CRC-32; or nothing, where being there is all


def begin(folder: Path) -> None:
    """Say that a folder is being filled: until `finish`, it is not whole."""
    write(folder / NAME, dumps(sealed({"files": None})))


def finish(folder: Path) -> None:
    """Say that a folder is whole, and what is in it.

    Nothing waits for the disk: what a power cut takes is found missing by it, or the manifest is gone too.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / NAME]
    write(folder / NAME, dumps(sealed({"files": contents(folder, files)})))


def contents(folder: Path, files: Iterable[Path]) -> Contents:
    """The size and the checksum of these files of a folder."""
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in sorted(files)
    }


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest; None if nothing is, or if it has none."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        found = unsealed(path.read_bytes())
    except OSError as error:
        return f"{NAME} cannot be read: {error.strerror}"
    if found is None:
        return f"{NAME} is not as it was written"
    if found["files"] is None:
        return "it was not written to its end"
    return changed(folder, found["files"])


def changed(folder: Path, files: Mapping[str, list[int]]) -> str | None:
    """The first file that is not as it was, and how; None if all are. What else is there does not matter."""
    for name, counted in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if counted and (there := path.stat().st_size) != counted[0]:
            return f"{name} has {there:,} bytes of {counted[0]:,}"
    for name, counted in files.items():
        try:
            if counted and _checksum(folder / name) != counted[1]:
                return f"{name} has changed"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found = zlib.crc32(chunk, found)
    return found
