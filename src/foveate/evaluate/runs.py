"""One run: a model, a method, a task; the same answers every time, and none asked twice."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from foveate.core.compressor import Compressor
from foveate.evaluate import results
from foveate.evaluate.answers import document, record_of
from foveate.evaluate.costs import costs, probes
from foveate.evaluate.likelihood import likeliest
from foveate.evaluate.prompts import ask
from foveate.evaluate.replies import replies
from foveate.evaluate.results import Job, Partial
from foveate.evaluate.shares import means
from foveate.hosts import attach
from foveate.hosts.switches import ALLOWED
from foveate.keeping.shared import Ranks, shared
from foveate.tasks.metrics import EXACT, Metric, labels

WATCHED = 8  # prompts whose way through tower, connector and compressors is counted
# What is attached to the model while these examples are asked.
Acting = Callable[[Sequence["Example"]], AbstractContextManager[Any]]

# Answers batches, by where they start, in any order.
Elsewhere = Callable[[Sequence[int]], Iterable[tuple[int, list[dict[str, Any]]]]]


class Example(Protocol):
    """A question about images; what every task is made of.

    Of a kind, where kinds weigh the same; or of none, where questions do.
    """

    images: Sequence[Image.Image | Path]
    question: str
    answer: str | None
    kind: str | None
    group: str | None
    key: str


def digest(examples: Sequence[Example]) -> str:
    """A short name for these very questions. Raises ValueError if two have the same key."""
    if (
        own := getattr(examples, "digest", None)
    ) is not None:  # a file's, of which none need be read
        return own
    if len({e.key for e in examples}) != len(examples):
        raise ValueError(f"{len(examples)} examples, but some share a key: each needs its own")
    sha = hashlib.sha256()
    for e in examples:
        sha.update(repr((e.key, e.question, e.answer, e.kind, e.group)).encode())
    return sha.hexdigest()[:16]


def keys(examples: Sequence[Example]) -> Sequence[str]:
    """The keys of all; of a file, none of whose questions is read for it."""
    return getattr(examples, "keys", None) or [e.key for e in examples]


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
    metric: Metric = EXACT,
    elsewhere: Elsewhere | None = None,
) -> dict[str, Any]:
    """The document of one run: scores, tokens, cost and every answer.

    Tokens of an image: how many there were, are left at the end (`tokens`) and after each of the `steps`;
    `share` is what is left at the end, `layer_share` the mean over the decoder layers of what enters them,
    both of what came, measured question by question.

    method None is the bare model. folder is where the result file goes and where a finished or a killed
    run is found again. measure adds what the caller times, advance hears of every answer. of_batch makes
    the compressor anew for each batch, which it has to know; `method` then only stands for it. metric
    scores the answers. Raises ValueError if the model is compressed already.

    Several processes on one folder share a run: each takes batches that no other holds, whoever is last
    writes the document, and all return it. elsewhere answers batches too, by where they start and in any
    order: a cluster's workers.
    """
    if attach.is_compressed(model):
        raise ValueError("run() compresses the model itself: foveate.restore(model) first")
    if folder is not None and (found := results.finished(folder, job)) is not None:
        advance(len(examples))
        return found
    started, partial = time.perf_counter(), Partial(folder, job, keys(examples))

    def acting(some: Sequence[Example]) -> AbstractContextManager[Any]:
        one = method if of_batch is None else of_batch(some)
        how = {name: getattr(job, name) for name in (*ALLOWED, "ladder")}
        return nullcontext() if one is None else attach.compressed(model, one, **how)

    once, each = (acting, _as_it_is) if of_batch is None else (_as_it_is, acting)
    if elsewhere is not None:
        _collect(partial, elsewhere, advance)
    with once(examples):
        _answer(model, processor, examples, job, partial, advance, each, metric)

    def there(one: Job) -> bool:
        return folder is not None and results.is_finished(folder, one)

    for _ in shared([job], there, lambda one: folder and folder / one.name):
        timing = measure() if measure is not None else {}
        with once(examples):
            spent = _spent(model, processor, examples, method, partial, each, metric)
        seconds = time.perf_counter() - started
        found = document(job, partial.answers, spent, timing, seconds, model.device, metric)
        if folder is not None:
            _told_absent(partial)
            results.finish(folder, job, found)
        return found
    return results.finished(folder, job)  # another process wrote it


def _answer(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    job: Job,
    partial: Partial,
    advance: Callable[[int], None],
    acting: Acting,
    metric: Metric,
) -> None:
    """Answer what is not answered yet, batch by batch, beside other processes that do so."""
    here, told = Ranks.here(), 0
    for start in shared(partial.starts, partial.has, partial.path, here):
        batch = examples[start : start + job.batch_size]
        with acting(batch):
            partial.add(
                start, answers(model, processor, batch, job.max_new_tokens, metric), here.rank
            )
        advance(len(partial.answers) - told)
        told = len(partial.answers)
    advance(len(examples) - told)


def _collect(partial: Partial, elsewhere: Elsewhere, advance: Callable[[int], None]) -> None:
    """Keep what others answer, batch by batch, as soon as it comes."""
    lacking = [start for start in partial.starts if not partial.has(start)]
    for start, batch in elsewhere(lacking):
        partial.add(start, batch)
        advance(0)


def answers(
    model: Any,
    processor: Any,
    batch: Sequence[Example],
    max_new_tokens: int,
    metric: Metric = EXACT,
) -> list[dict[str, Any]]:
    """What a model answers to a batch, as result files have it."""
    asks, began = [ask(e, metric) for e in batch], time.perf_counter()
    if metric.choosing:
        found = likeliest(model, processor, asks, [labels(e).choices for e in batch])
    else:
        found = replies(model, processor, asks, max_new_tokens)
    each = (time.perf_counter() - began) / len(batch)
    return [record_of(e, reply, metric, each) for e, reply in zip(batch, found, strict=True)]


def _spent(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    method: Compressor | None,
    partial: Partial,
    acting: Acting,
    metric: Metric,
) -> dict[str, Any]:
    """What of each image was left and what that cost."""
    watched = []
    for e in examples[:WATCHED]:
        with acting([e]):
            watched += probes(model, processor, [ask(e, metric)])
    every = partial.answers
    with acting(examples[:1]):
        return {**means(every, method), "cost": costs(model, watched, every)}


def _told_absent(partial: Partial) -> None:
    """Name the processes that answered nothing: they never came, or too late."""
    here = Ranks.here()
    if absent := sorted({*range(here.of)} - partial.by):
        names = ", ".join(map(str, absent))
        warnings.warn(f"rank {names} of {here.of} answered nothing: it never came, or too late")


def _as_it_is(some: Sequence[Example]) -> AbstractContextManager[Any]:
    return nullcontext()
