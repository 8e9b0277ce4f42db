"""Answers as they stand in a result file, and the document around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from foveate.evaluate import results
from foveate.evaluate.recall import recall
from foveate.evaluate.replies import Reply
from foveate.evaluate.results import Job
from foveate.evaluate.score import scores
from foveate.keeping.provenance import record
from foveate.tasks.metrics import NONE, Metric, labels

UNSAID = ("key", "columns", "words", "seconds")  # of an answer, in a result file


def record_of(example: Any, reply: Reply, metric: Metric, seconds: float) -> dict[str, Any]:
    """An answer and what it took; of no kind, also what it is about."""
    own = (
        {}
        if example.kind is not None
        else {"id": getattr(example, "id", example.key), "picture": _picture(example)}
    )
    return own | {
        "key": example.key,
        "kind": example.kind,
        "group": example.group,
        "question": example.question,
        "answer": None
        if metric.name == NONE.name
        else example.answer,  # a label, and none is asked for
        "prediction": reply.text,
        "right": metric.score(reply.text, labels(example)),
        "before": reply.before,
        "after": reply.after,
        "steps": list(reply.kept.steps),
        "share": reply.kept.share,
        "layer_share": reply.kept.layer_share,
        "columns": reply.columns and list(reply.columns),
        "words": reply.words,
        "seconds": seconds,
        "doubt": reply.doubt,
        **({} if reply.rung is None else {"rung": reply.rung}),
        "recall": recall(getattr(example, "asked", ()), reply.carried),
    }


def _picture(example: Any) -> str:
    """What an example is about: questions about the same picture are not independent."""
    first = next(iter(example.images), None)
    return str(first) if isinstance(first, Path) else example.key


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def document(
    job: Job,
    answers: Sequence[Mapping[str, Any]],
    spent: Mapping[str, Any],
    timing: Mapping[str, Any],
    seconds: float,
    device: torch.device,
    metric: Metric,
) -> dict[str, Any]:
    """The result of a run. Where nothing is scored, every answer has its time."""
    unsaid = [name for name in UNSAID if name != "seconds" or metric.score is not NONE.score]
    return {
        "format": results.FORMAT,
        "job": job.told,
        "method": job.method,
        "keep": job.keep,
        "untrained": job.untrained,
        "tokens": sum(a["after"] for a in answers) / len(answers),
        "tokens_before": sum(a["before"] for a in answers) / len(answers),
        **scores(answers),
        **({"more": more} if (more := metric.more(answers)) else {}),
        "recall": _mean(a["recall"] for a in answers),
        "n": len(answers),
        **spent,
        "prefill": timing,
        "seconds": seconds,
        "circumstances": record(job.seed, device),
        "answers": {a["key"]: {k: v for k, v in a.items() if k not in unsaid} for a in answers},
    }
