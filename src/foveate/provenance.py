"""What it takes to get a number again, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("foveate", "torch", "transformers", "numpy")


def record(seed: int | None = None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where and with what a run took place: command, commit, versions, device, threads, seed."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "versions": {p: found for p in PACKAGES if (found := _version(p))},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


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


def write(path: Path, text: str) -> Path:
    """Put a file there at once: readers see the old one or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
