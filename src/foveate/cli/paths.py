"""Paths that are no UTF-8: some libraries take none, and are shown the same place by another name."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from foveate.cli import said


def plain(path: Path) -> Path:
    """The path itself, or where it is no UTF-8 a link to it that is, for as long as the process lives."""
    return path if said.utf8(str(path)) else _link(path.absolute())


@functools.cache
def _link(path: Path) -> Path:
    link = Path(tempfile.mkdtemp(dir=_links().name)) / said.visible(path.name).replace("\\", "")
    link.symlink_to(path)
    return link


@functools.cache
def _links() -> tempfile.TemporaryDirectory[str]:
    """Where the links are; gone at the end."""
    return tempfile.TemporaryDirectory(prefix="foveate-")
