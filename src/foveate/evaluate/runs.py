"""One run: a model, a method, a task; the same answers every time, and none asked twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from foveate.core.compressor import Compressor
from foveate.evaluate import results
from foveate.evaluate.costs import costs, probes
from foveate.evaluate.recall import recall
from foveate.evaluate.replies import Reply, replies
from foveate.evaluate.results import Job, Partial
from foveate.evaluate.score import exact, scores
from foveate.evaluate.shares import means
from foveate.hosts import attach
from foveate.hosts.switches import ALLOWED
from foveate.keeping.held import held
from foveate.keeping.provenance import record

WATCHED = 8  # prompts whose way through tower, connector and compressors is counted
# What is attached to the model while these examples are asked.
Acting = Callable[[Sequence["Example"]], AbstractContextManager[Any]]
UNSAID = ("key", "columns", "words")  # of an answer, in a result file


class Example(Protocol):
    """A question about images; what every task is made of."""

    images: Sequence[Image.Image]
    question: str
    answer: str
    kind: str
    group: str
    key: str


def digest(examples: Sequence[Example]) -> str:
    """A short name for these very questions. Raises ValueError if two have the same key."""
    if len({e.key for e in examples}) != len(examples):
        raise ValueError(f"{len(examples)} examples, but some share a key: each needs its own")
    sha = hashlib.sha256()
    for e in examples:
        sha.update(repr((e.key, e.question, e.answer, e.kind, e.group)).encode())
    return sha.hexdigest()[:16]


def run(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    job: Job,
    method: Compressor | None = None,
    folder: Path | None = None,
    measure: Callable[[], dict[str, Any]] | None = None,
    advance: Callable[[int], None] = lambda done: None,
    of_batch: Callable[[Sequence[Example]], Compressor] | None = None,
) -> dict[str, Any]:
    """The document of one run: scores, tokens, cost and every answer.

    Tokens of an image: how many there were, are left at the end (`tokens`) and after each of the `steps`;
    `share` is what is left at the end, `layer_share` the mean over the decoder layers of what enters them,
    both of what came, measured question by question.

    method None is the bare model. folder is where the result file goes and where a finished or a killed
    run is found again. measure adds what the caller times, advance hears of every answer. of_batch makes
    the compressor anew for each batch, which it has to know; `method` then only stands for it. Raises
    ValueError if the model is compressed already, and HeldError if another process makes this very run.
    """
    if attach.is_compressed(model):
        raise ValueError("run() compresses the model itself: foveate.restore(model) first")
    with held(folder and folder / job.name):
        if folder is not None and (found := results.finished(folder, job)) is not None:
            advance(len(examples))
            return found
        started = time.perf_counter()
        partial = Partial(folder, job, [e.key for e in examples])
        timing = measure() if measure is not None else {}

        def acting(some: Sequence[Example]) -> AbstractContextManager[Any]:
            one = method if of_batch is None else of_batch(some)
            how = {name: getattr(job, name) for name in ALLOWED}
            return nullcontext() if one is None else attach.compressed(model, one, **how)

        once, each = (acting, _as_it_is) if of_batch is None else (_as_it_is, acting)
        with once(examples):
            spent = _spent(model, processor, examples, job, method, partial, advance, each)
        seconds = time.perf_counter() - started
        document = _document(job, partial.answers, spent, timing, seconds, model.device)
        if folder is not None:
            results.finish(folder, job, document)
        return document


def _spent(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    job: Job,
    method: Compressor | None,
    partial: Partial,
    advance: Callable[[int], None],
    acting: Acting,
) -> dict[str, Any]:
    """Answer all, and what of each image was left and what that cost."""
    watched = []
    for e in examples[:WATCHED]:
        with acting([e]):
            watched += probes(model, processor, [(e.images, e.question)])
    _answer(model, processor, examples, job, partial, advance, acting)
    answers = partial.answers
    with acting(examples[:1]):
        return {**means(answers, method), "cost": costs(model, watched, answers)}


def _answer(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    job: Job,
    partial: Partial,
    advance: Callable[[int], None],
    acting: Acting,
) -> None:
    """Answer what is not answered yet, batch by batch."""
    advance(len(partial.answers))
    for start in sorted(partial.keys.keys() - partial.batches.keys()):
        batch = examples[start : start + job.batch_size]
        asks = [(e.images, e.question) for e in batch]
        with acting(batch):
            found = replies(model, processor, asks, job.max_new_tokens)
        partial.add(start, [_record(e, reply) for e, reply in zip(batch, found, strict=True)])
        advance(len(batch))


def _as_it_is(some: Sequence[Example]) -> AbstractContextManager[Any]:
    return nullcontext()


def _record(example: Example, reply: Reply) -> dict[str, Any]:
    return {
        "key": example.key,
        "kind": example.kind,
        "group": example.group,
        "question": example.question,
        "answer": example.answer,
        "prediction": reply.text,
        "right": exact(reply.text, example.answer),
        "before": reply.before,
        "after": reply.after,
        "steps": list(reply.kept.steps),
        "share": reply.kept.share,
        "layer_share": reply.kept.layer_share,
        "columns": reply.columns and list(reply.columns),
        "words": reply.words,
        "recall": recall(getattr(example, "asked", ()), reply.carried),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _document(
    job: Job,
    answers: list[dict[str, Any]],
    spent: dict[str, Any],
    timing: dict[str, Any],
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "format": results.FORMAT,
        "job": asdict(job),
        "method": job.method,
        "keep": job.keep,
        "untrained": job.untrained,
        "tokens": sum(a["after"] for a in answers) / len(answers),
        "tokens_before": sum(a["before"] for a in answers) / len(answers),
        **scores(answers),
        "recall": _mean(a["recall"] for a in answers),
        "n": len(answers),
        **spent,
        "prefill": timing,
        "seconds": seconds,
        "circumstances": record(job.seed, device),
        "answers": {a["key"]: {k: v for k, v in a.items() if k not in UNSAID} for a in answers},
    }
