"""The tasks that `compare`, `eval` and `train` know by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foveate.cli.wrong import Wrong, unknown

TASKS: dict[str, dict[str, Any]] = {
    "patchqa": {},
    "patchqa-tiny": {"text": "tiny"},
    "patchqa-crowded": {"objects": (6, 9)},
    "patchqa-two": {"images": 2},
    "patchqa-2x": {"size": 192},  # the same things on a canvas four times as large
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


class Questions(Sequence):
    """Training records of a task: one question to a scene, no scene twice, the same for the same seed."""

    def __init__(self, name: str, n: int, seed: int = 0):
        from foveate.patchqa import PatchQA

        self.task = PatchQA("train", seed=seed, **TASKS[check(name)])
        if n > len(self.task):
            raise Wrong(f"steps × batch is {n:,}: {name} has {len(self.task):,} scenes to train on")
        self.name, self.n = name, n
        self.has_images, self.questions = [True] * n, [1] * n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        from foveate.train import Record, Turn

        if not 0 <= index < self.n:
            raise IndexError(f"record {index} of {self.n}")
        scene = self.task[index]
        asked = scene.questions[index % len(scene.questions)]
        marks = "<image>\n" * len(scene.pictures)
        return Record(
            id=scene.key,
            images=tuple(picture.pil() for picture in scene.pictures),
            turns=(Turn("user", marks + asked.text), Turn("assistant", asked.answer)),
            where=f"{self.name}, scene {index}",
        )


def records(recipe: Any) -> Questions:
    """What a recipe trains on, of the task it names: as many scenes as its steps take."""
    if recipe.steps is None:
        raise Wrong(f"data={recipe.data}: a task has no end, say how many steps")
    return Questions(recipe.data, recipe.steps * recipe.batch, recipe.seed)
