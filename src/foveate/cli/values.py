"""Paths, tasks and lists of numbers as people type them, within bounds."""

from __future__ import annotations

from pathlib import Path

import typer

from foveate import tasks
from foveate.cli.wrong import Wrong
from foveate.registry.written import LARGEST, number

SEEDS = 2**32 - 1  # the largest seed that all libraries below take
MOST_PROMPTS = 10_000  # in a batch, and questions of a run: pictures of more would fill the memory
MOST_NEW = 100_000  # tokens of an answer
MOST_ROUNDS = 100_000
MOST_SCENES = 1_000  # each is drawn in the report, with every method


def path(text: str | Path) -> Path:
    """A path as typed. Raises typer.BadParameter for an empty one, which would be the folder one is in."""
    if text == "":
        raise typer.BadParameter("it is empty, want a path")
    return Path(text)


PATH = {"parser": path, "metavar": "PATH"}  # how an option says that it takes one


def task(name: str) -> str:
    """A task's name. Raises Wrong with the nearest one if there is none such."""
    try:
        return tasks.check(name)
    except ValueError as error:
        raise Wrong(str(error)) from error


def wholes(
    option: str, text: str, least: int = 1, most: int = LARGEST, such: str = "1,8,32"
) -> list[int]:
    """The whole numbers in a comma-separated list, in order. Raises Wrong, with the bounds, for others."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [number(part) for part in parts]
    if not found or not all(isinstance(n, int) and least <= n <= most for n in found):
        raise Wrong(
            f"{option} {text}: want whole numbers from {least} with commas, such as {such}, none above {most}"
        )
    return found
