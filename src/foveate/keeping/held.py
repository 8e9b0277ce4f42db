"""One process at a time: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_guard = threading.Lock()
_ours: set[tuple[int, str]] = (
    set()
)  # the system's locks do not tell the threads of one process apart


class HeldError(RuntimeError):
    """Another process, or another thread, is making the same thing in the same place."""


@contextlib.contextmanager
def held(path: Path | None, inside: str = "") -> Iterator[None]:
    """Be the only one that makes what goes to `path` and to names that begin so; None holds nothing.

    inside: what goes to names in the folder `path` that begin so, in place of the folder itself.
    What killed processes left half-written under such names is swept away. The lock is the system's, on
    a file NAME.lock: it dies with its process, and children do not inherit it. Where there are no such
    locks, on Windows and some network drives, two processes at once go unnoticed: files are written whole
    all the same.

    Raises HeldError, saying who holds it and since when.
    """
    if path is None:
        yield
        return
    what = f"{path} is being {'written to' if inside else 'made'} by"
    begin = path / inside
    with _alone(begin, what):
        if os.name != "posix":
            yield
            return
        begin.parent.mkdir(parents=True, exist_ok=True)
        lock = begin.with_name(f"{begin.name}.lock")
        try:
            file = _taken(lock, what)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        with file:
            sweep(begin.parent, begin.name)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)


def sweep(folder: Path, name: str = "") -> None:
    """Remove what killed processes left half-written in a folder, of this name and longer ones, or all.

    Files are ours if they are called NAME.PROCESS.tmp and no such process is alive.
    """
    ours = re.compile(
        rf"{re.escape(name)}\.(?:.*\.)?([0-9]+)\.tmp" if name else r".+\.([0-9]+)\.tmp"
    )
    for left in folder.glob("*.tmp"):
        found = ours.fullmatch(left.name)
        if found and left.is_file() and not _alive(int(found[1])):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether there may be a process of this number: yes where the system does not tell."""
    if os.name != "posix" or process == 0:
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _alone(path: Path, what: str) -> Iterator[None]:
    """Be the only thread of this process there."""
    mine = os.getpid(), os.path.realpath(path)
    with _guard:
        if mine in _ours:
            raise HeldError(_told(what, "this process already"))
        _ours.add(mine)
    try:
        yield
    finally:
        with _guard:
            _ours.discard(mine)


def _taken(lock: Path, what: str) -> BinaryIO:
    """The lock's file, open and locked; where the drive has no locks, only open."""
    import fcntl

    while True:
        file = lock.open("a+b", buffering=0)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with file:
                file.seek(0)
                who = file.read(200).decode(errors="replace")
            raise HeldError(_told(what, f"process {who}" if who else "another process")) from None
        except OSError:  # a drive without locks
            return file
        if _is_there(file, lock):
            break
        file.close()  # the one who held it has just ended, and this file with it
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # on a full disk nobody is told who
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()} since {now}".encode())
    return file


def _told(what: str, who: str) -> str:
    return f"{what} {who}: wait for it to end, or write elsewhere"


def _is_there(file: BinaryIO, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False
