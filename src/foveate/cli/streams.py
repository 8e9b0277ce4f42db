"""Standard streams as people leave them: closed, full, or of an encoding that knows few letters."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from foveate.cli import said

# What ASCII has in place of letters that answers are written with.
PLAIN = str.maketrans({"→": "->", "–": "-", "×": "x", "…": "...", "≤": "<=", "·": ".", "²": "^2"})


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """The nearest that every encoding has, for letters that one lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(PLAIN)
    return "".join(c if c.isascii() else said.escaped(c) for c in lacking), error.end


codecs.register_error("foveate", _plainly)


def open_all() -> None:
    """Give a process whose standard streams were closed some that lead nowhere.

    Else the next file that is opened would be its standard output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """Whatever is printed meanwhile can be printed: letters that a stream lacks are replaced."""
    with contextlib.ExitStack() as stack:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stack.callback(_restore, stream, stream.errors)
                stream.reconfigure(errors="foveate")
        yield


def _restore(stream: Any, errors: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        stream.reconfigure(errors=errors)


def say(text: str) -> None:
    """One line on stderr, if that can still be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        settle(sys.stderr)


def settle(stream: TextIO) -> None:
    """Write what a stream still holds; where that fails, into nothing: Python would try again at the end."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
