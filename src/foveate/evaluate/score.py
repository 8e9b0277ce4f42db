"""Right or wrong, and how sure one can be of the share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import inf, sqrt
from statistics import fmean
from typing import Any

import numpy as np

Z = 1.959964  # 95 %
DRAWS, MANY = 2000, 2000  # of a bootstrap; and pictures from which on it is not needed
OVERALL = "overall"


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; never of zero width, never outside [0, 1]."""
    if not n:
        return 0.0, 1.0
    p, z2 = right / n, Z * Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(tallies: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """95 % interval of the mean of several kinds' shares, each kind weighing the same.

    One kind: Wilson's. Several: normal, around the mean, the variance of each kind that of Agresti and
    Coull ((right + 2) of (n + 4)), so that kinds without a mistake do not claim certainty.
    """
    if len(tallies) == 1:
        return wilson(*tallies[0])
    mean = sum(right / n for right, n in tallies) / len(tallies)
    adjusted = [((right + 2) / (n + 4), n + 4) for right, n in tallies]
    half = Z * sqrt(sum(p * (1 - p) / n for p, n in adjusted)) / len(tallies)
    return max(0.0, mean - half), min(1.0, mean + half)


def scores(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy, intervals and counts of answers with `kind`, `group` and `right`.

    A group is the mean of its kinds, overall the mean of all kinds: no kind weighs more for being
    asked more often. Answers of no kind, and those without a score, weigh the same each: see `by_question`.
    """
    answers = list(answers)
    if any(answer["kind"] is None or answer["right"] is None for answer in answers):
        return by_question(answers)
    tallies: dict[str, list[int]] = {}
    group_of: dict[str, str] = {}
    for answer in answers:
        right_n = tallies.setdefault(answer["kind"], [0, 0])
        right_n[0] += answer["right"]
        right_n[1] += 1
        group_of[answer["kind"]] = answer["group"]
    members = {OVERALL: list(tallies)}
    for kind, group in group_of.items():
        members.setdefault(group, []).append(kind)
    share = {kind: right / n for kind, (right, n) in tallies.items()}
    kinds = {
        kind: {"accuracy": share[kind], "interval": wilson(right, n), "right": right, "n": n}
        for kind, (right, n) in tallies.items()
    }
    return {
        "accuracy": {g: sum(share[k] for k in ks) / len(ks) for g, ks in members.items()},
        "interval": {
            g: mean_interval([tuple(tallies[k]) for k in ks]) for g, ks in members.items()
        },
        "kinds": kinds,
    }


def by_question(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy and intervals of answers with `group`, `right` (0 to 1, or None) and `picture`.

    Every question that has a score weighs the same; `scored` says how many have. Where none has, accuracy
    and interval are None.
    """
    members: dict[str, list[Mapping[str, Any]]] = {OVERALL: []}
    for answer in answers:
        groups = (OVERALL,) if answer["group"] is None else (OVERALL, answer["group"])
        for group in groups:
            some = members.setdefault(group, [])
            some += [answer] if answer["right"] is not None else []
    marks = {g: [float(a["right"]) for a in some] for g, some in members.items()}
    return {
        "accuracy": {g: fmean(some) if some else None for g, some in marks.items()},
        "interval": {
            g: bootstrap(some, [a["picture"] for a in members[g]]) if some else None
            for g, some in marks.items()
        },
        "kinds": {},
        "scored": len(members[OVERALL]),
    }


def bootstrap(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """95 % interval of a mean: clusters are drawn again, with all their values, the same every time.

    Where all clusters have the same share right, Wilson's for as many: drawing again would claim
    certainty; of one cluster nothing is known. With more than MANY, the normal one of `clustered_error`,
    which is the same by then.
    """
    names = {name: n for n, name in enumerate(dict.fromkeys(clusters))}
    which, n = np.array([names[name] for name in clusters]), len(names)
    sums, counts = np.bincount(which, values, n), np.bincount(which, minlength=n)
    mean = sums.sum() / counts.sum()
    if n == 1 and len({*values}) > 1:
        return 0.0, 1.0  # of one picture nothing is known
    if np.ptp(sums / counts) == 0:
        low, high = wilson(round(mean * n), n)
    elif n > MANY:
        half = Z * clustered_error(values, clusters)
        low, high = mean - half, mean + half
    else:
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
        low, high = np.quantile((drawn @ sums) / (drawn @ counts), [0.025, 0.975])
    return max(0.0, float(low)), min(1.0, float(high))


def clustered_error(values: Sequence[float], scenes: Sequence[Hashable]) -> float:
    """The standard error of a mean whose numbers come in scenes. After Miller 2024, arXiv:2411.00640.

    Differs from there: G / (G - 1) for G scenes, so that with one number a scene it is the usual one.
    """
    mean, sums = fmean(values), defaultdict(float)
    for value, scene in zip(values, scenes, strict=True):
        sums[scene] += value - mean
    G = len(sums)
    return sqrt(G / (G - 1) * sum(s * s for s in sums.values())) / len(values) if G > 1 else inf
