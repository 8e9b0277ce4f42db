"""What a run trains on and what it evaluates on: opened, looked through, and what is wrong left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foveate.tasks import TASKS, records
from foveate.train import left_out
from foveate.train.data import Record, Records, check, refuse
from foveate.train.recipe import Recipe

KEYS = 12  # unknown keys that are named
Sets = tuple[Any, Any]  # to train on, and to evaluate on or None


def opened(recipe: Recipe, data: Any, validation: Any) -> Sets:
    """Both, conversation by conversation: the recipe's file or task, unless given.

    Raises ValueError if records are to be left out of what is no file.
    """
    if data is None and recipe.data in TASKS:
        data = records(recipe)
    elif data is None:
        data = Records(recipe.data, recipe.images, recipe.outside)
    if validation is None and recipe.validation is not None:
        validation = Records(recipe.validation, recipe.images, recipe.outside)
    given = [some for some in (data, validation) if some is not None]
    if recipe.skip and len(files((data, validation))) < len(given):
        raise ValueError("skip=True leaves out records of files, and this data is none")
    return data, validation


def files(sets: Sequence[Any]) -> list[Records]:
    """Those that are read from files."""
    return [some for some in sets if isinstance(some, Records)]


def checked(
    recipe: Recipe, out: Path, begins: bool, sets: Sets, advance: Callable[[str], None]
) -> left_out.Problems:
    """What is wrong with records that the run leaves out. advance hears how many were looked at.

    Raises DataError with a list of all that is wrong and not left out.
    """
    some, seen = files(sets), 0

    def counted(n: int) -> None:
        nonlocal seen
        seen += n
        advance(f"checked {seen:,} records")

    for one in some:
        _name_unknown(one)
    if recipe.skip and begins and not recipe.check:
        raise ValueError("skip=True with check=False: the check finds what to leave out")
    also = caption if recipe.template == "plain" else None
    found = [check(one, counted, also=also) for one in some] if recipe.check else None
    if recipe.skip:
        return _told(some, (left_out.note if begins else left_out.noted)(out, some, found))
    if found and any(found):
        refuse(found, some)
    return []


def _name_unknown(records: Records) -> None:
    """Tell a person, once, which keys of a file nothing reads: those of most records first."""
    found = sorted(records.unknown.items(), key=lambda one: -one[1])
    if found:
        known = [f"{key!r} in {n:,}" for key, n in found[:KEYS]]
        more = [f"{len(found) - KEYS:,} more"] if len(found) > KEYS else []
        warnings.warn(
            f"{records.path}: keys that are not read, and in how many records: {', '.join(known + more)}"
        )


def _told(some: Sequence[Records], gone: left_out.Problems) -> left_out.Problems:
    """What is left out, of which a person is told."""
    for one, wrong in zip(some, gone, strict=True):
        if wrong:
            many = len({problem.record for problem in wrong})
            are = "is" if many == 1 else "are"
            told = f"{many:,} of {len(one):,} records {are} left out, the first: {wrong[0]}"
            warnings.warn(f"{one.path}: {told}")
    return gone


def caption(record: Record) -> tuple[str, str] | None:
    """What is wrong with a record that should be images and their caption."""
    answers = sum(turn.role == "assistant" for turn in record.turns)
    if answers == 1:
        return None
    return "captions", f"template='plain' wants one caption, not {answers}"


def without(sets: Sets, gone: left_out.Problems) -> Sets:
    """The sets without the records that cannot be trained on. Raises DataError if a set has no others."""
    left = []
    for some, wrong in zip(files(sets), gone, strict=True):
        records = {problem.record for problem in wrong}
        if len(records) == len(some):
            refuse([wrong], [some], "and no record without one")
        left.append(some.without(sorted(records)))
    return left[0], (left[1] if len(left) > 1 else None)
