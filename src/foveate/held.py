"""One process at a time: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class HeldError(RuntimeError):
    """Another process is making the same thing in the same place."""


@contextlib.contextmanager
def held(path: Path | None) -> Iterator[None]:
    """Be the only process that makes what goes to `path` and to names that begin so; None holds nothing.

    What killed processes left half-written under such names is swept away. The lock is the system's, on
    `path`.lock: it dies with its process, and children do not inherit it. Where there are no such locks,
    on Windows and some network drives, two at once go unnoticed: files are written whole all the same.

    Raises HeldError, saying who holds it and since when.
    """
    if path is None or os.name != "posix":
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    with _taken(lock, path):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def sweep(folder: Path, names: str = "*") -> None:
    """Remove what killed processes left half-written, where no other is at work."""
    for left in folder.glob(f"{names}.tmp"):
        if left.is_file():
            left.unlink(missing_ok=True)


def _taken(lock: Path, path: Path) -> BinaryIO:
    """The lock's file, open and locked; where the drive has no locks, only open."""
    import fcntl

    while True:
        file = lock.open("a+b", buffering=0)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with file:
                raise HeldError(_told(file, path)) from None
        except OSError:  # a drive without locks
            return file
        if _is_there(file, lock):
            break
        file.close()  # the one who held it has just ended, and this file with it
    sweep(path.parent, f"{glob.escape(path.name)}*")
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # on a full disk nobody is told who
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()} since {now}".encode())
    return file


def _told(file: BinaryIO, path: Path) -> str:
    file.seek(0)
    who = file.read(200).decode(errors="replace")
    process = f"process {who}" if who else "another process"
    return f"{path} is being made by {process}: wait for it to end, or write elsewhere"


def _is_there(file: BinaryIO, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False
