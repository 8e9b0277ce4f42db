"""Errors a person made and can mend: one line that says what, what is allowed, and what is nearest."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


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
    names = list(allowed)
    near = nearest(name, names)
    return Wrong(f"unknown {what} {name!r}: {near}there are {', '.join(names) or 'none'}")


def nearest(name: str, names: Iterable[str]) -> str:
    """The nearest of these names, as errors begin with it; empty if none is near."""
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"nearest: {close[0]}; " if close else ""
