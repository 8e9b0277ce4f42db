"""Numbers and literals as people type them: plain digits, within bounds; and lists of them."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import typer

from foveate import tasks
from foveate.cli.wrong import Wrong

LARGEST = 2**31 - 1  # as foveate.core.ops has it, which takes torch to read
SEEDS = 2**32 - 1  # the largest seed that all libraries below take
MOST_PROMPTS = 10_000  # in a batch, and questions of a run: pictures of more would fill the memory
MOST_NEW = 100_000  # tokens of an answer
MOST_ROUNDS = 100_000
MOST_SCENES = 1_000  # each is drawn in the report, with every method
WHOLE = re.compile(r"[+-]?[0-9]+")
REAL = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?|[+-]?(inf|nan)", re.IGNORECASE
)
DIGITS, LONGEST = 1_000, 10_000  # letters of a number, and of a literal


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


def number(text: str) -> int | float | None:
    """The number that is written in plain digits, 3 or 0.25 or 1e-4; None for any other text."""
    text = text.strip()
    if len(text) > DIGITS:
        return None
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text) if REAL.fullmatch(text) else None


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


def literal(text: str) -> Any:
    """The text as a number, true, false, None, or a list of such; the text itself if it is none."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if (plain := number(text)) is not None:
        return plain
    if text[:1] not in tuple("[({'\"N") or len(text) > LONGEST:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, about how it is written
            value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return value


def typed(where: str, text: str, like: Any) -> Any:
    """The text as a value of the same type as this one. Raises Wrong, beginning with where, for others."""
    if isinstance(like, bool) and text.lower() not in ("true", "false"):
        raise Wrong(f"{where}: want true or false")
    value = literal(text)
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < LARGEST**2 else math.inf
    if type(value) is not type(like) or (isinstance(value, float) and not math.isfinite(value)):
        raise Wrong(f"{where}: want {_kind(like)}, such as {like}")
    return value


def _kind(like: Any) -> str:
    return {int: "a whole number", float: "a number"}.get(type(like), f"a {type(like).__name__}")
