"""Records that a run leaves out, as they cannot be trained on: found as it begins, the same to its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.keeping.provenance import dumps, write
from foveate.train.data import Problem, Records, refuse

NOTES = "skipped.json"  # in the run's folder: everything that is left out
FIRST = 100  # records that training.json lists

Problems = list[list[Problem]]  # of each set, in the order of its records


def note(out: Path, sets: Sequence[Records], found: Problems) -> Problems:
    """Write down which records a run that begins does without, and why. Returns what was found."""
    told = [
        {"records": len(some), "skipped": [problem._asdict() for problem in problems]}
        for some, problems in zip(sets, found, strict=True)
    ]
    write(out / NOTES, dumps({"sets": told}))
    return found


def noted(out: Path, sets: Sequence[Records], found: Problems | None) -> Problems:
    """What a run that goes on does without, as it began. found: what is wrong now; None: nobody looked.

    What was mended stays left out. Raises ValueError if the notes are gone or the files have another number
    of records, and DataError if more is wrong than was.
    """
    try:
        told = json.loads((out / NOTES).read_text(encoding="utf-8"))["sets"]
        lengths = [one["records"] for one in told]
        before = [[Problem(**problem) for problem in one["skipped"]] for one in told]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{out / NOTES} does not say which records the run leaves out: begin in another folder"
        ) from error
    if lengths != [len(some) for some in sets]:
        then, now = (" and ".join(f"{n:,}" for n in ns) for ns in (lengths, map(len, sets)))
        raise ValueError(f"the run began with {then} records, and the files have {now} now")
    if found is None:
        return before
    known = [{problem.record for problem in problems} for problems in before]
    fresh = [[p for p in new if p.record not in old] for new, old in zip(found, known, strict=True)]
    if any(fresh):
        refuse(fresh, sets, "since the run began, which goes on with the records it had")
    return before


def told(problems: Problems) -> dict[str, Any]:
    """How many records are left out, and the first of them, as training.json has it."""
    found: dict[str, list[str]] = {}
    for problem in (problem for wrong in problems for problem in wrong):
        found.setdefault(problem.where, []).append(problem.what)
    first = list(found.items())[:FIRST]
    return {
        "records": len(found),
        "first": [{"where": where, "what": "; ".join(what)} for where, what in first],
    }
