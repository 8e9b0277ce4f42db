"""Errors a person made and can mend: one line that says what, what is allowed, and what is nearest."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from foveate.registry import written


class Wrong(Exception):  # noqa: N818
    """Wrong use of the command line; ends it with exit code 2."""


class Failed(Exception):  # noqa: N818
    """Something outside went wrong, such as a download; ends the command line with exit code 1."""


def outside(error: OSError) -> str:
    """The line for what the system says no to: a full disk, a folder where a file goes."""
    if error.filename is None or error.strerror is None:
        return error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    kept = "; what was finished is kept" if full else ""
    return f"{error.strerror}: {os.fsdecode(error.filename)}{kept}"


def unknown(what: str, name: str, allowed: Iterable[str]) -> Wrong:
    """The line for a name that does not exist: the nearest one first, then all."""
    return Wrong(written.unknown(what, name, allowed))


@contextmanager
def meant() -> Iterator[None]:
    """Inside, what is written without a meaning is wrong use."""
    try:
        yield
    except ValueError as error:
        raise Wrong(str(error)) from error
