"""The tasks that come with foveate: for evaluation their questions, for training their records."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.chat import Record

TASKS: dict[str, dict[str, Any]] = {
    "patchqa": {},
    "patchqa-tiny": {"text": "tiny"},
    "patchqa-crowded": {"objects": (6, 9)},
    "patchqa-two": {"images": 2},
    # To train on: more often what is lost first.
    "patchqa-practice": {"weights": {"count": 8, "sign": 12, "digit": 4, "background": 2}},
    "patchqa-2x": {"size": 192},  # the same things on a canvas four times as large
}


def check(name: str) -> str:
    """The task's name. Raises ValueError with the nearest one if there is none such."""
    if name not in TASKS:
        raise ValueError(
            f"unknown task {name!r}: {nearest(name, TASKS)}there are {', '.join(TASKS)}, or a file"
        )
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one, as the beginning of a hint; empty if none is."""
    near = difflib.get_close_matches(name.lower(), [*known], n=1, cutoff=0.5)
    return f"nearest: {near[0]}; " if near else ""


def examples(name: str, n: int, seed: int = 0) -> list[Any]:
    """n test questions of a task, the same ones every time. Raises ValueError for an unknown task."""
    from foveate.patchqa import PatchQA

    return PatchQA("test", seed=seed, **TASKS[check(name)]).examples(n)


class Questions(Sequence):
    """Training records of a task: one question to a scene, no scene twice, the same for the same seed."""

    def __init__(self, name: str, n: int, seed: int = 0):
        from foveate.patchqa import PatchQA

        self.task = PatchQA("train", seed=seed, **TASKS[check(name)])
        if n > len(self.task):
            raise ValueError(
                f"steps × batch is {n:,}: {name} has {len(self.task):,} scenes to train on"
            )
        self.name, self.n = name, n
        self.has_images, self.questions = [True] * n, [1] * n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Record:
        from foveate.chat import Record, Turn

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
    """What a recipe trains on, of the task it names: as many scenes as its steps take.

    Raises ValueError for a recipe that goes by epochs, and for one that wants more scenes than there are.
    """
    if recipe.steps is None:
        raise ValueError(f"data={recipe.data}: a task has no end, say how many steps")
    return Questions(recipe.data, recipe.steps * recipe.batch, recipe.seed)
