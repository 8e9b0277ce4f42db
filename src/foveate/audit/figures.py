"""Figures of answers: which changed, how sure they were, what was left out. Shares are between 0 and 1."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from foveate.evaluate.score import bootstrap

BINS = 15
ENDS = re.compile(r"(?<=[.!?])\s+")  # of a sentence
WORDS = re.compile(r"\w+")


def share(marks: Sequence[bool], pictures: Sequence[Hashable]) -> dict[str, Any] | None:
    """How many of these are marked, with a 95 % interval clustered by picture; None of none."""
    if not len(marks):
        return None
    low, high = bootstrap([float(mark) for mark in marks], pictures)
    return {
        "count": int(sum(marks)),
        "n": len(marks),
        "share": sum(marks) / len(marks),
        "interval": [low, high],
    }


def changed(
    full: Sequence[str],
    own: Sequence[str],
    right: Sequence[tuple[float, float]] | None,
    pictures: Sequence[Hashable],
) -> dict[str, Any]:
    """Answers that are others than with all tokens; with labels, which way they went.

    right: of each question the scores of both answers. `broke` was right and is wrong, `mended` the other
    way; a score below the other is wrong, above it right.
    """
    found: dict[str, Any] = {
        "flips": share([a != b for a, b in zip(full, own, strict=True)], pictures)
    }
    if right is not None:
        found["broke"] = share([b < a for a, b in right], pictures)
        found["mended"] = share([b > a for a, b in right], pictures)
    return found


def calibration(sure: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """Whether a model knows what it knows: sure is the likelihood of each answer's first token.

    ece    mean distance of confidence and accuracy, in 15 equal bins. Guo et al. 2017, arXiv:1706.04599
    brier  mean square of confidence minus rightness
    aurc   mean share wrong among the surest, over all shares of them. Geifman and El-Yaniv 2017,
           arXiv:1705.08500
    """
    sure_, right_ = np.asarray(sure, float), np.asarray(right, float)
    bins = np.minimum((sure_ * BINS).astype(int), BINS - 1)
    gaps = [abs((sure_ - right_)[bins == n].sum()) for n in range(BINS)]
    wrong = 1 - right_[np.argsort(-sure_, kind="stable")]
    return {
        "ece": float(sum(gaps) / len(sure_)),
        "brier": float(((sure_ - right_) ** 2).mean()),
        "aurc": float((wrong.cumsum() / np.arange(1, len(wrong) + 1)).mean()),
    }


def yes(full: Sequence[str], own: Sequence[str]) -> dict[str, Any] | None:
    """Of the questions that both answer with yes or no, the share of yes; None where there are none."""
    said = [(_first(a), _first(b)) for a, b in zip(full, own, strict=True)]
    said = [pair for pair in said if {*pair} <= {"yes", "no"}]
    if not said:
        return None
    of = [sum(word == "yes" for word in side) / len(said) for side in zip(*said, strict=True)]
    return {"n": len(said), "full": of[0], "own": of[1]}


def _first(text: str) -> str:
    words = WORDS.findall(text.lower())
    return words[0] if words else ""


def sentences(text: str) -> list[str]:
    """The sentences of an answer, each as its words."""
    return [" ".join(WORDS.findall(one.lower())) for one in ENDS.split(text) if WORDS.search(one)]


def lost(full: Sequence[str], own: Sequence[str]) -> dict[str, Any] | None:
    """Of the answers with several sentences, how many of these are no longer said; None without such."""
    said = [(sentences(a), sentences(b)) for a, b in zip(full, own, strict=True)]
    long = [(before, after) for before, after in said if len(before) > 1]
    if not long:
        return None
    every = [sentence not in after for before, after in long for sentence in before]
    return {"answers": len(long), "sentences": len(every), "lost": sum(every) / len(every)}
