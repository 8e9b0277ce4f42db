"""One run: a model, a method, a task; the same answers every time, and none asked twice."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from foveate.compressor import Compressor
from foveate.evaluate import results
from foveate.evaluate.prompts import acting, encode, told
from foveate.evaluate.replies import replies
from foveate.evaluate.results import Job, Partial
from foveate.evaluate.score import exact, scores
from foveate.hosts import attach, cost, traits
from foveate.provenance import dumps, record, write

COSTED = 8  # prompts whose cost is counted and averaged


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
) -> dict[str, Any]:
    """The document of one run: scores, tokens, cost and every answer.

    method None is the bare model. folder is where the result file goes and where a finished or a killed
    run is found again. measure adds what the caller times, advance hears of every answer. Raises
    ValueError if the model is compressed already.
    """
    if attach.is_compressed(model):
        raise ValueError("run() compresses the model itself: foveate.restore(model) first")
    if folder is not None and (found := results.finished(folder, job)) is not None:
        advance(len(examples))
        return found
    partial, started = Partial(folder, job), time.perf_counter()
    timing = measure() if measure is not None else {}
    context = (
        contextlib.nullcontext()
        if method is None
        else attach.compressed(model, method, job.positions)
    )
    with context:
        spent = costs(model, processor, examples[:COSTED])
        _answer(model, processor, examples, job, partial, advance)
    document = _document(job, partial, spent, timing, time.perf_counter() - started, model.device)
    if folder is not None:
        write(folder / f"{job.name}.json", dumps(document))
    partial.drop()
    return document


def _answer(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    job: Job,
    partial: Partial,
    advance: Callable[[int], None],
) -> None:
    """Answer what is not answered yet, batch by batch."""
    advance(sum(map(len, partial.batches)))
    for start in range(len(partial.batches) * job.batch_size, len(examples), job.batch_size):
        batch = examples[start : start + job.batch_size]
        asks = [(e.images, e.question) for e in batch]
        found = replies(model, processor, asks, job.max_new_tokens)
        partial.add([_record(e, reply) for e, reply in zip(batch, found, strict=True)])
        advance(len(batch))


def _record(example: Example, reply: Any) -> dict[str, Any]:
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
    }


@torch.inference_mode()
def costs(model: Any, processor: Any, examples: Sequence[Example]) -> dict[str, float]:
    """Multiply-accumulates and cache bytes of one prompt's prefill, the mean over these prompts."""
    base, total, compressor = traits.base_of(model), {}, acting(model)
    parts = compressor.parts() if compressor is not None else []
    for e in examples:
        inputs, asked = encode(processor, [(e.images, e.question)])
        inputs = inputs.to(model.device)
        inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        call = functools.partial(model, **inputs, logits_to_keep=1)
        text = int((~traits.is_visual(base, inputs["input_ids"])).sum())
        with told(compressor, asked):
            load = cost.watch(model, text, call)
            own = cost.own_macs(model, call) if parts else None
        for name, value in cost.cost(model, load, parts, own).as_dict().items():
            total[name] = total.get(name, 0) + value / len(examples)
    return total


def _document(
    job: Job,
    partial: Partial,
    spent: dict[str, float],
    timing: dict[str, Any],
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    answers = [answer for batch in partial.batches for answer in batch]
    return {
        "format": results.FORMAT,
        "job": asdict(job),
        "method": job.method,
        "keep": job.keep,
        "untrained": job.untrained,
        "tokens": sum(a["after"] for a in answers) / len(answers),
        "tokens_before": sum(a["before"] for a in answers) / len(answers),
        **scores(answers),
        "n": len(answers),
        "cost": spent,
        "prefill": timing,
        "seconds": seconds,
        "circumstances": record(job.seed, device),
        "answers": {a["key"]: {k: v for k, v in a.items() if k != "key"} for a in answers},
    }
