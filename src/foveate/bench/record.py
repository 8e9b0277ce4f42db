"""Result files: the numbers, and all it takes to get them again. Written whole or not at all."""

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
    """Where and with what a run took place."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "versions": {p: found for p in PACKAGES if (found := _version(p))},
        "python": platform.python_version(),
        "device": f"{device.type} ({name})",
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


def write(path: str | Path, result: Mapping[str, Any]) -> Path:
    """Write a result as JSON; an interrupted write leaves the old file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    return draft.replace(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
