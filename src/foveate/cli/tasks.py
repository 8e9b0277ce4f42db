"""The tasks that `compare` and `eval` know by name."""

from __future__ import annotations

from typing import Any

from foveate.cli.wrong import unknown

TASKS: dict[str, dict[str, Any]] = {
    "patchqa": {},
    "patchqa-tiny": {"text": "tiny"},
    "patchqa-crowded": {"objects": (6, 9)},
    "patchqa-two": {"images": 2},
}


def check(name: str) -> str:
    """The task's name. Raises Wrong with the nearest one if there is none such."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return name


def examples(name: str, n: int, seed: int) -> list[Any]:
    """n test questions of a task, the same ones every time."""
    from foveate.patchqa import PatchQA

    return PatchQA("test", seed=seed, **TASKS[check(name)]).examples(n)
