"""From result files to the rows of the board."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from foveate.evaluate.comparison import BARE
from foveate.evaluate.score import OVERALL, Z, clustered_error
from foveate.keeping.provenance import unsealed

DOWNSAMPLE = "downsample"
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A method at a budget on a task.

    tokens, layers   visual tokens left at the end, and in the mean over the decoder layers
    right            by group and overall: the share that is right, and half of its 95 % interval, clustered
                     by scene
    hard, easy       the share right of what downsampling to this budget gets wrong, and of what it gets right
    lost, won        the share of all questions that the bare model answers right and this one wrong, and
                     the other way round
    recall           what an asked patch has left of a token
    to_bare, to_limit  prefill beside the bare model, and beside a prompt of so many tokens
    front            no other method has more right with as few tokens
    """

    task: str
    model: str
    method: str
    keep: float | int | None
    trained: bool
    question: bool
    inside: bool
    baseline: bool
    seeds: int
    n: int
    tokens: float
    layers: float
    right: dict[str, tuple[float, float]]
    hard: float | None
    easy: float | None
    lost: float | None
    won: float | None
    recall: float | None
    macs: float
    scorer: float
    kv_bytes: float
    to_bare: float | None
    to_limit: float | None
    front: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def read(folder: Path) -> list[Result]:
    """All results of a folder, in the order of their names."""
    found = [unsealed(file.read_bytes()) for file in sorted(folder.glob("*.json"))]
    return [result for result in found if result is not None and "right" in result]


def rows(results: Iterable[Result]) -> list[Row]:
    """The board: the bare model of each task first, then by method and budget, seeds together."""
    groups: dict[tuple, list[Result]] = defaultdict(list)
    for result in results:
        key = result["key"]
        where = (_task(key), key["model"], _method(result), json.dumps(key["keep"]))
        groups[where].append(result)
    for some in groups.values():
        some.sort(key=lambda result: result["key"]["seed"] or 0)
    found = [_row(some, groups) for some in groups.values()]
    found = [_with(row, front=ahead(row, found)) for row in found]
    return sorted(found, key=_place)


def _task(key: Mapping[str, Any]) -> str:
    """What a board is called: by its task, and by how answers are scored where that is not as usual."""
    return key["task"] if "metric" not in key else f"{key['task']}, {key['metric']}"


def _method(result: Result) -> str:
    """A method, with what `compress` was told of it where that is not as usual."""
    return ", ".join([result["key"]["method"], *result["what"].get("switches", ())])


def _place(row: Row) -> tuple:
    return (
        row.task,
        not row.baseline,
        row.trained,
        row.model,
        row.method,
        -row.layers,
        repr(row.keep),
    )


def _with(row: Row, **changes: Any) -> Row:
    return Row(**{**{name: getattr(row, name) for name in row.__dataclass_fields__}, **changes})


def ahead(row: Row, every: Sequence[Row]) -> bool:
    """Whether no other method has as much right with as few tokens."""
    if row.baseline:
        return False
    others = (r for r in every if r.task == row.task and not r.baseline and r is not row)
    own = row.right[OVERALL][0]
    return not any(r.layers <= row.layers and r.right[OVERALL][0] > own for r in others)


def _row(some: Sequence[Result], groups: Mapping[tuple, Sequence[Result]]) -> Row:
    first = some[0]
    key, cost = first["key"], first["cost"]
    task, model = _task(key), key["model"]
    marks = _marks(some)
    bare = [r for (t, _, m, _), rs in groups.items() if (t, m) == (task, BARE) for r in rs]
    small = groups.get((task, _compared(groups, task), DOWNSAMPLE, json.dumps(key["keep"])), ())
    time = first["time"] or {}
    return Row(
        task=task,
        model=model,
        method=_method(first),
        keep=key["keep"],
        **{name: first["what"][name] for name in ("trained", "question", "inside", "baseline")},
        seeds=len(some),
        n=len(marks),
        tokens=fmean(r["tokens"] for r in some),
        layers=fmean(r["cost"]["equivalent_tokens"] for r in some),
        right=_right(marks, first),
        **_split(marks, _marks(small)),
        **_flips(marks, _marks(bare)),
        recall=first["recall"],
        macs=cost["total"],
        scorer=cost["scorer"],
        kv_bytes=cost["kv_bytes"],
        to_bare=time.get("to_bare"),
        to_limit=time.get("to_limit"),
    )


def _compared(groups: Mapping[tuple, Any], task: str) -> str:
    """The model that the methods act on: the one that was asked bare."""
    return next(m for t, m, method, _ in groups if (t, method) == (task, BARE))


def _marks(some: Sequence[Result]) -> list[float]:
    """For every question the share of the seeds that answer it right."""
    return [
        fmean(float(mark) for mark in marks)
        for marks in zip(*(r["right"] for r in some), strict=True)
    ]


def _right(marks: Sequence[float], result: Result) -> dict[str, tuple[float, float]]:
    """Overall and by group, every kind weighing the same."""
    kinds, group_of = result["kinds"], result["groups"]
    members = {OVERALL: set(kinds)}
    for kind, group in group_of.items():
        members.setdefault(group, set()).add(kind)
    found = {}
    for group, own in members.items():
        which = [i for i, kind in enumerate(kinds) if kind in own]
        count = {kind: kinds.count(kind) for kind in own}
        # So weighted, the plain mean is the mean of the kinds.
        weight = [len(which) / count[kinds[i]] / len(own) for i in which]
        values = [w * marks[i] for w, i in zip(weight, which, strict=True)]
        error = clustered_error(values, [result["scenes"][i] for i in which])
        found[group] = (fmean(values), min(Z * error, 1.0))  # of one scene nothing is known
    return found


def _split(marks: Sequence[float], small: Sequence[float]) -> dict[str, float | None]:
    """What downsampling gets wrong, and what it gets right."""
    parts = {"hard": [m for m, s in zip(marks, small, strict=False) if s < 0.5]}
    parts["easy"] = [m for m, s in zip(marks, small, strict=False) if s >= 0.5]
    return {name: fmean(part) if part else None for name, part in parts.items()}


def _flips(marks: Sequence[float], bare: Sequence[float]) -> dict[str, float | None]:
    if not bare:
        return {"lost": None, "won": None}
    pairs = list(zip(marks, bare, strict=True))
    return {
        "lost": fmean(b * (1 - m) for m, b in pairs),
        "won": fmean((1 - b) * m for m, b in pairs),
    }
