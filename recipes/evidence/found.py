"""What was found: the results of a page, by row and seed, and the distances between them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from intervals import Estimate, Right, against, estimate
from protocol import QUESTIONS, ROOT, TEST_SEED, Page, Run, asked

from foveate.patchqa import PatchQA

Results = dict[int, dict[str, Any]]  # of one row, by seed


def file(page: str, name: str) -> Path:
    """Where a result is, or what else a page has counted once."""
    return ROOT / "results" / page / f"{name}.json"


def read(page: Page, run_: Run) -> dict[str, Any] | None:
    """A run's result, of this very recipe and these very questions; None before it is made."""
    wanted = asked(run_)
    own = _document(file(page.name, run_.name))
    if own is not None and own["asked"] == wanted:
        return own
    lent = _document(file(page.lender, run_.name)) if page.lender else None
    return lent if lent is not None and _covers(lent["asked"], wanted) else None


def _document(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and {"asked", "answers"} <= found.keys():
        return found
    warnings.warn(f"{path} is no result: its run is to be made again")
    return None


def _covers(there: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a result holds what is wanted: the same training and questions, other methods besides."""
    rest = {k: v for k, v in there.items() if k != "asks"}
    asks = there["asks"]
    return {**rest, "asks": asks[: len(wanted["asks"])]} == wanted


def done(page: Page, run_: Run) -> bool:
    """Whether a run has a result."""
    return read(page, run_) is not None


def missing(page: Page) -> list[str]:
    """The runs that are still to be made, by name."""
    return [run_.name for run_ in page.runs if not done(page, run_)]


def seeds_of(page: Page, row: str) -> Results:
    """The results of a row by seed, of those that are there."""
    named = {run_.name: run_ for run_ in page.runs}
    seeds = sorted({run_.recipe.seed for run_ in page.runs if run_.recipe is not None})
    runs = {s: named[f"{row}-seed{s}"] for s in seeds if f"{row}-seed{s}" in named}
    return {s: found for s, r in runs.items() if (found := read(page, r)) is not None}


def right(
    results: Results,
    method: str | None = None,
    group: str | None = None,
    changed: Mapping[str, Any] | None = None,
) -> Right:
    """By seed, a 1 or 0 for every question, or every one of a group; see `answer`."""
    found, wanted = {}, range(QUESTIONS) if group is None else groups()[group]
    for seed, result in results.items():
        if (told := answer(result, method, changed)) is not None:
            found[seed] = [int(told["right"][i]) for i in wanted]
    return found


def answer(
    result: dict[str, Any], method: str | None = None, changed: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """How a run answers: with its own method, or another, or changed arguments, for the test alone.

    None where it was not asked so.
    """
    own, *others = result["answers"]
    if method is None and not changed:
        return own
    if changed:
        return next((a for a in others if a.get("changed") == changed), None)
    return next((a for a in others if a["method"] == method and not a["own"]), None)


@cache
def groups() -> dict[str, tuple[int, ...]]:
    """The groups of questions, and which of the test's belong to each."""
    found: dict[str, tuple[int, ...]] = {}
    for i, example in enumerate(PatchQA("test", seed=TEST_SEED).examples(QUESTIONS)):
        found[example.group] = (*found.get(example.group, ()), i)
    return found


def gain(page: Page, baseline: Results, slug: str) -> Estimate | None:
    """What training with a method brings over the same method for the test alone."""
    return estimate(against(right(seeds_of(page, slug)), right(baseline, slug)))


def to(page: Page, other: Results, row: str, group: str | None = None) -> Estimate | None:
    """A row's distance from another's results, the baseline's say, over the seeds that both have."""
    return estimate(against(right(seeds_of(page, row), group=group), right(other, group=group)))


def progress(page: Page) -> str:
    """Which runs are still to be made, said where a page begins."""
    names = missing(page)
    return f"\nStill to be run: {', '.join(names)}." if names else ""


def circumstances(page: Page) -> str:
    """Where the results of a page come from, in a sentence."""
    found = [r for run_ in page.runs if (r := read(page, run_)) is not None]
    where = [r["circumstances"] for r in found]
    commits = sorted({w["commit"][:7] for w in where if w["commit"]})
    versions = sorted({f"torch {w['versions']['torch']}" for w in where})
    versions += sorted({f"transformers {w['versions']['transformers']}" for w in where})
    devices = sorted({f"{w['device']}, {w['threads']} thread" for w in where})
    return (
        f"{len(found)} of {len(page.runs)} runs are there, made at commit {', '.join(commits)} with "
        f"{', '.join(versions)} on {', '.join(devices)} a run."
    )
