"""All figures of an audit in one document: the full model, and each method beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from foveate.audit import beside, figures
from foveate.audit.beside import Map, Near
from foveate.evaluate.comparison import called
from foveate.evaluate.plans import Plan
from foveate.evaluate.score import OVERALL
from foveate.evaluate.work import Work

Run = Mapping[str, Any]


def audit(work: Work, plans: Sequence[Plan], runs: Sequence[Run]) -> dict[str, Any]:
    """The document of an audit: the first plan is the full model, the others are held against it.

    runs: what `work.runs(plans)` gave. Figures of labels are there where the questions are scored, and only
    there is a label looked at.
    """
    near = beside.recited(work, plans)
    said = [[one["prediction"] for one in run["answers"].values()] for run in runs]
    again = beside.again(work, plans, said[0])
    full = _own(runs[0], near[0][0])
    rows = [
        {
            **_own(run, far),
            **_beside(runs[0], run, far, kept),
            "again": None if isinstance(again, str) else _again(again[0], again[n], runs[0]),
            "name": called(run["job"], work.loaded.name),
        }
        for n, (run, (far, kept)) in enumerate(zip(runs, near, strict=True))
    ]
    return {
        "model": work.loaded.name,
        "task": work.task,
        "n": len(work.examples),
        "seed": work.seed,
        "labels": _scored(runs[0]),
        "full": full,
        "rows": rows[1:],
        "no_again": again if isinstance(again, str) else None,
        "looks": beside.looks(work),
    }


def _scored(run: Run) -> bool:
    return all(one["right"] is not None for one in run["answers"].values())


def _own(run: Run, near: Sequence[Near]) -> dict[str, Any]:
    """What there is to say of a run by itself."""
    told: dict[str, Any] = {
        "method": run["method"],
        "keep": run["keep"],
        "tokens": run["tokens"],
        "tokens_before": run["tokens_before"],
        "entropy": fmean(one.doubt for one in near),
        "sure": fmean(one.sure for one in near),
    }
    if _scored(run):
        right = [float(one["right"]) for one in run["answers"].values()]
        told["accuracy"] = {"share": run["accuracy"][OVERALL], "interval": run["interval"][OVERALL]}
        told["calibration"] = figures.calibration([one.sure for one in near], right)
    return told


def _beside(full: Run, run: Run, near: Sequence[Near], kept: Map) -> dict[str, Any]:
    """What there is to say of a run beside that of the full model."""
    pairs = list(zip(full["answers"].values(), run["answers"].values(), strict=True))
    before, after = ([one["prediction"] for one in side] for side in zip(*pairs, strict=True))
    right = [(float(a["right"]), float(b["right"])) for a, b in pairs] if _scored(full) else None
    pictures, groups = _pictures(full), {}
    for group in dict.fromkeys(a["group"] or a["kind"] for a, _ in pairs):
        mine = [n for n, (a, _) in enumerate(pairs) if (a["group"] or a["kind"]) == group]
        marks = [before[n] != after[n] for n in mine]
        groups[group or "all"] = figures.share(marks, [pictures[n] for n in mine])
    flipped = [key for key, a, b in zip(full["answers"], before, after, strict=True) if a != b]
    far = {key: one.first for key, one in zip(full["answers"], near, strict=True)}
    return {
        **figures.changed(before, after, right, pictures),
        "first": fmean(one.first for one in near),
        "whole": fmean(one.whole for one in near),
        "yes": figures.yes(before, after),
        "sentences": figures.lost(before, after),
        "groups": groups,
        "kept": kept.mean(),
        "flipped": sorted(flipped, key=lambda key: -far[key]),
    }


def _again(full: Sequence[str], own: Sequence[str], run: Run) -> dict[str, Any] | None:
    marks = [a != b for a, b in zip(full, own, strict=True)]
    return figures.share(marks, _pictures(run))


def _pictures(run: Run) -> list[str]:
    """What each question is about: questions about one picture are not independent."""
    return [one.get("picture", key) for key, one in run["answers"].items()]
