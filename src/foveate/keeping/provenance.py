"""What it takes to get a number again, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("foveate", "torch", "transformers", "numpy")
SEAL = "seal"


def record(seed: int | None = None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where and with what a run took place: command, commit, versions, device, threads, seed."""
    import torch  # here: files are written by much that does without it

    device = torch.device(device)
    cuda = device.type == "cuda"
    return {
        "command": shlex.join([*_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "commit": commit(),
        "versions": {p: found for p in PACKAGES if (found := _version(p))},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def _program(path: Path) -> list[str]:
    """How a program is called: by its name, or as `python -m` where it is a package."""
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]


def commit() -> str | None:
    """The commit of the checkout this package runs from, '+' if it was changed; None outside of one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # An installed package inside somebody else's repository is not tracked there.
        if not git("ls-files", "--", Path(__file__).name):
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", here)
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except OSError:  # no git on this machine
        return None


def dumps(document: Mapping[str, Any]) -> str:
    """A document as JSON: readable, without NaN, and with bytes that were no UTF-8 as JSON's escapes."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()


def write(path: Path, content: str | bytes) -> Path:
    """Put a file there at once: readers see the old one or the whole new one.

    A killed process leaves the old one. So does a full disk: OSError, which names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        part.write_bytes(
            content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        )
        part.replace(path)
    except OSError as error:
        raise named(error, path) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def named(error: OSError, path: Path) -> OSError:
    """The same error, saying of which file: those of a full disk do not."""
    return OSError(error.errno, error.strerror or str(error), str(path))


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Save into a folder, which goes if that fails. Raises OSError that names it where the disk is full."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno:
            raise named(error, folder) from error
        if (number := _refused(str(error))) is not None:
            raise OSError(number, os.strerror(number), str(folder)) from error
        raise


def _refused(text: str) -> int | None:
    """The system's number for a write that failed, from what safetensors and torch say of it."""
    if told := re.search(r"Error while serializing.*(?:os error|code:) (\d+)", text):
        return int(told[1])
    # torch does not say why, and it is hardly ever for another reason.
    broken = any(word in text for word in ("PytorchStreamWriter", "inline_container", "iostream"))
    return errno.ENOSPC if broken else None


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document and a checksum of all it says: whoever reads it sees whether it was changed."""
    return {**document, SEAL: _seal(document)}


def unsealed(text: str | bytes) -> dict[str, Any] | None:
    """The document that was sealed; None for anything else: cut, changed, no JSON, or never sealed."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    seal = found.pop(SEAL, None)
    return found if seal == _seal(found) else None


def made(path: Path, **wanted: Any) -> dict[str, Any] | None:
    """The sealed document in a file that only saves work; None where the work is to be done.

    One that is not as it was written, or says other than `wanted`, is made again, with a warning; so is one
    of an earlier foveate, whose format is older. Raises OSError as `content` does.
    """
    text = content(path)
    if text is None:
        return None
    found = unsealed(text)
    if found is not None and all(found.get(name) == value for name, value in wanted.items()):
        return found
    old = _older(text, wanted.get("format"))
    why = "is of an earlier foveate" if old else "is not what was written there"
    warnings.warn(f"{path} {why}: made again", stacklevel=2)
    return None


def _older(text: bytes, format: int | None) -> bool:
    """Whether a document says that its format is an older one, and was never sealed or is as it was."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or (SEAL in found and unsealed(text) is None):
        return False
    then = found.get("format")
    return format is not None and type(then) is int and then < format


def content(path: Path) -> bytes | None:
    """What is in a file; None without one, nothing for an empty folder in its place, which goes.

    Raises OSError for a folder with something in it.
    """
    path = Path(path)
    if not path.is_dir():
        return path.read_bytes() if path.exists() else None
    try:
        path.rmdir()
    except OSError as error:
        what = "a folder with something in it stands where a file goes"
        raise OSError(error.errno, what, str(path)) from error
    return b""


def _seal(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
