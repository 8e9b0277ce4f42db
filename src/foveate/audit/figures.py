"""What differs between the answers with all tokens and those with fewer: counts and shares."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foveate.evaluate.score import bootstrap
from foveate.tasks.metrics import NO, YES, exact, normalised

BINS = 15  # of confidence, as in Guo et al. 2017
END = re.compile(r"(?<=[.!?])\s+")  # of a sentence


def flips(
    whole: Sequence[str], fewer: Sequence[str], clusters: Sequence[Hashable]
) -> dict[str, Any]:
    """How many answers are others than with all tokens, whatever their case and spacing; 95 % interval.

    A flip may be from right to wrong or back: see Dutta et al. 2024, arXiv:2407.09141. clusters: which
    picture each question is about.
    """
    differ = [not exact(a, b) for a, b in zip(whole, fewer, strict=True)]
    count = sum(differ)
    interval = list(bootstrap([float(one) for one in differ], clusters))
    return {"count": count, "n": len(differ), "share": count / len(differ), "interval": interval}


def changed(whole: Mapping[str, Any], fewer: Mapping[str, Any]) -> list[str]:
    """The keys of the questions that two runs answer differently, whatever the case and the spacing."""
    said = {key: one["prediction"] for key, one in whole["answers"].items()}
    return [key for key, one in fewer["answers"].items() if not exact(said[key], one["prediction"])]


def ways(whole: Sequence[float | None], fewer: Sequence[float | None]) -> dict[str, int]:
    """How many questions score worse and better than with all tokens, of those that have a score."""
    both = [(a, b) for a, b in zip(whole, fewer, strict=True) if None not in (a, b)]
    return {
        "worse": sum(b < a for a, b in both),
        "better": sum(b > a for a, b in both),
        "scored": len(both),
    }


def calibration_error(sure: Sequence[float], right: Sequence[float]) -> float:
    """ECE: how far accuracy is from confidence, over 15 bins of confidence weighed by their questions.

    Guo et al. 2017, arXiv:1706.04599: the sum over bins of n_bin / n · |mean right − mean sure|.
    """
    sure, right = np.asarray(sure, float), np.asarray(right, float)
    which = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)  # (0, 1/15], (1/15, 2/15], …
    gaps = np.bincount(which, right - sure, BINS)
    return float(np.abs(gaps).sum() / len(sure))


def brier(sure: Sequence[float], right: Sequence[float]) -> float:
    """The mean of (sure − right)². Brier 1950, Monthly Weather Review 78."""
    return float(np.mean((np.asarray(sure, float) - np.asarray(right, float)) ** 2))


def aurc(sure: Sequence[float], right: Sequence[float]) -> float:
    """The area under the risk-coverage curve. Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206.

    The mean over k of the share wrong among the k surest; of those that are equally sure, their mean.
    """
    _, which, many = np.unique(-np.asarray(sure, float), return_inverse=True, return_counts=True)
    mean = np.bincount(which, 1 - np.asarray(right, float)) / many
    wrong = mean.repeat(many).cumsum()
    return float((wrong / np.arange(1, len(wrong) + 1)).mean())


def balance(whole: Sequence[str], fewer: Sequence[str]) -> dict[str, int] | None:
    """Of the questions that all tokens answer yes or no: how many so, and who says what with fewer.

    None where no question is answered so.
    """
    both = [(_verdict(a), _verdict(b)) for a, b in zip(whole, fewer, strict=True)]
    both = [(a, b) for a, b in both if a is not None]
    if not both:
        return None
    return {
        "n": len(both),
        "whole": sum(a == YES for a, _ in both),
        "yes": sum(b == YES for _, b in both),
        "no": sum(b == NO for _, b in both),
        "to_no": both.count((YES, NO)),
        "to_yes": both.count((NO, YES)),
    }


def _verdict(text: str) -> str | None:
    """Yes or no, by the first word; None for anything else."""
    word = re.match(r"\w*", normalised(text))[0]
    return word if word in (YES, NO) else None


def sentences(whole: Sequence[str], fewer: Sequence[str]) -> dict[str, int] | None:
    """Of answers of several sentences: how many are no longer said, and how many new ones are.

    A sentence is the same whatever its case and spacing. None where no answer has several.
    """
    both = [(_said(a), _said(b)) for a, b in zip(whole, fewer, strict=True)]
    both = [(a, b) for a, b in both if len(a) > 1]
    if not both:
        return None
    return {
        "answers": len(both),
        "said": sum(len(a) for a, _ in both),
        "lost": sum(len(a.keys() - b.keys()) for a, b in both),
        "new": sum(len(b.keys() - a.keys()) for a, b in both),
    }


def lost(whole: str, fewer: str) -> list[str]:
    """The sentences of one answer that the other lacks, as they were said; none of a short answer."""
    there, gone = _said(fewer), _said(whole)
    return [text for key, text in gone.items() if key not in there] if len(gone) > 1 else []


def _said(text: str) -> dict[str, str]:
    """The sentences of a text, by what makes them the same."""
    return {normalised(one).rstrip(".!?"): one for one in END.split(text.strip()) if one}


def members(groups: Iterable[str | None]) -> dict[str, list[int]]:
    """The questions of each group, by their place."""
    found: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        if group is not None:
            found.setdefault(group, []).append(place)
    return found
