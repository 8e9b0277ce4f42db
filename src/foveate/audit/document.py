"""The whole audit as one document: a row for each run, the one with all tokens first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from foveate.audit import figures
from foveate.audit.looking import Runs, pictures
from foveate.evaluate.comparison import called

FORMAT = 1
MEANS = ("first", "apart")


def audit(
    examples: Sequence[Any],
    runs: Runs,
    looks: Sequence[Mapping[str, Any]],
    labelled: bool,
    unread: str = "",
    notes: Sequence[str] = (),
    skipped: Sequence[Any] = (),
) -> dict[str, Any]:
    """What fewer tokens change, run by run, each beside the first, which has all.

    looks: what `foveate.audit.looks` found of these runs. labelled: the answers were scored; else no label
    and no score of them is read. unread: why no look of the model could be read; notes and skipped as
    `comparison` takes them. `foveate.audit.figures` defines every figure where it is counted.
    """
    clusters = [pictures(example) for example in examples]
    answers = [list(run["answers"].values()) for run in runs]
    if labelled:
        labelled = any(one["right"] is not None for one in answers[0])
    rows = [
        _row(run, own, look, answers[0], looks[0], clusters, labelled)
        for run, own, look in zip(runs, answers, looks, strict=True)
    ]
    job = runs[0]["job"]
    return {
        "format": FORMAT,
        **{name: job[name] for name in ("model", "task", "metric", "protocol", "seed")},
        "n": len(answers[0]),
        "labelled": labelled,
        "rows": rows,
        "unread": unread,
        "notes": list(notes),
        "skipped": list(skipped),
        "circumstances": runs[0]["circumstances"],
    }


def _row(
    run: Mapping[str, Any],
    own: Sequence[Mapping[str, Any]],
    look: Mapping[str, Any],
    bare: Sequence[Mapping[str, Any]],
    whole: Mapping[str, Any],
    clusters: Sequence[Any],
    labelled: bool,
) -> dict[str, Any]:
    """One run beside the one with all tokens."""
    said, before = [one["prediction"] for one in own], [one["prediction"] for one in bare]
    doubts = [one["doubt"] for one in own if one["doubt"] is not None]
    row = {
        "name": called(run["job"], run["job"]["model"]),
        **{name: run[name] for name in ("method", "keep", "tokens", "tokens_before")},
        "flips": figures.flips(before, said, clusters),
        **{name: fmean(look[name]) for name in MEANS},
        "doubt": fmean(doubts) if doubts else None,
        "sure": fmean(look["sure"]),
        "second": figures.flips(whole["second"], look["second"], clusters),
        "balance": figures.balance(before, said),
        "sentences": figures.sentences(before, said),
        "groups": {},
        "map": look["map"],
    }
    right = [one["right"] for one in own] if labelled else []
    had = [one["right"] for one in bare] if labelled else []
    if labelled:
        row |= _labelled(right, had, look["sure"])
    for group, places in figures.members(one["group"] for one in bare).items():
        some = [[values[i] for i in places] for values in (before, said, clusters)]
        row["groups"][group] = figures.flips(*some)
        if labelled:
            row["groups"][group] |= _labelled(
                *([v[i] for i in places] for v in (right, had, look["sure"]))
            )
    return row


def _labelled(
    right: Sequence[float | None], had: Sequence[float | None], sure: Sequence[float]
) -> dict[str, Any]:
    """What labels say: who got worse and better, and whether the model knows when it is right."""
    ways = figures.ways(had, right)
    known = [(s, float(r)) for s, r in zip(sure, right, strict=True) if r is not None]
    if not known:
        return ways
    both = list(zip(*known, strict=True))
    return {
        **ways,
        "accuracy": fmean(both[1]),
        "ece": figures.calibration_error(*both),
        "brier": figures.brier(*both),
        "aurc": figures.aurc(*both),
    }
