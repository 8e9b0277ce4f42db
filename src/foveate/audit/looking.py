"""What an audit asks beside the answers: how sure both are, how far apart, what is kept, a second turn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import kl_div

from foveate.audit import maps
from foveate.chat import MARK, Chat, Turn
from foveate.core.composed import Chain
from foveate.evaluate.comparison import BARE
from foveate.evaluate.likelihood import following
from foveate.evaluate.plans import Plan
from foveate.evaluate.prompts import Ask, ask
from foveate.evaluate.replies import replies
from foveate.evaluate.steps import steps
from foveate.evaluate.work import Work
from foveate.hosts import attach, traits
from foveate.hosts.trace import Step
from foveate.keeping.provenance import dumps, made, sealed, write
from foveate.methods import FastV

FORMAT = 1
Runs = Sequence[dict[str, Any]]


def looks(
    work: Work, plans: Sequence[Plan], runs: Runs, advance: Callable[[int], None] = lambda by: None
) -> tuple[list[dict[str, Any]], str]:
    """Of each of these runs, all tokens first, what came of its questions; and why no look could be read.

    sure    (n,) how likely its own first token was
    first   (n,) KL in nats from the first token's distribution with all tokens to its own
    apart   (n,) the same, the mean over the answer with all tokens and the end behind it
    second  (n,) what it answers in a second turn
    map     (rows, columns) the share of a token that each cell has; with all tokens, how it is looked at

    Batches are kept in the folder `looks` and read from there, as finished runs are.
    """
    looking, why = _looking(work)
    plans = [looking, *plans[1:]]
    folder, shape = work.out / "looks" / _called(runs), _shape(work, plans)
    behind = following_questions(work.examples)
    batches = []
    for start in range(0, len(work.examples), work.batch_size):
        path = folder / f"{start:09d}.json"
        batch = made(path, format=FORMAT, start=start)
        if batch is None:
            rows = _batch(
                work,
                plans,
                runs,
                range(len(work.examples))[start:][: work.batch_size],
                behind,
                shape,
            )
            batch = {"format": FORMAT, "start": start, "rows": rows}
            folder.mkdir(parents=True, exist_ok=True)
            write(path, dumps(sealed(batch)))
        batches.append(batch["rows"])
        advance(len(batch["rows"][0]["sure"]) * len(plans))
    return [_joined(of_one, shape) for of_one in zip(*batches, strict=True)], why


def pictures(example: Any) -> tuple[str, ...]:
    """What tells its pictures from others: questions about the same ones are not independent.

    Of a question about none, its key.
    """
    found = tuple(
        str(one) if isinstance(one, Path) else hashlib.sha256(one.tobytes()).hexdigest()[:16]
        for one in example.images
    )
    return found or (example.key,)


def following_questions(examples: Sequence[Any]) -> list[int]:
    """Which question comes second after each: the next one about the same pictures, or itself again."""
    found: dict[Any, list[int]] = {}
    for place, example in enumerate(examples):
        found.setdefault(pictures(example), []).append(place)
    behind = {}
    for some in found.values():
        behind |= dict(zip(some, [*some[1:], some[0]], strict=True))
    return [behind[place] for place in range(len(examples))]


def second(first: Ask, answer: str, question: str) -> Ask:
    """A second turn behind a first one and its answer, about the same images."""
    images, words = first
    marks = f"{MARK}\n" * len(images) if isinstance(words, str) and MARK not in words else ""
    turns = [Turn("user", marks + words)] if isinstance(words, str) else [*words]
    return images, [*turns, Turn("assistant", answer), Turn("user", question)]


def _batch(
    work: Work,
    plans: Sequence[Plan],
    runs: Runs,
    places: Sequence[int],
    behind: Sequence[int],
    shape: tuple[int, int],
) -> list[dict[str, Any]]:
    """What came of these questions in every run."""
    some = [work.examples[place] for place in places]
    asks = [ask(one, work.metric) for one in some]
    questions = [work.examples[behind[place]].question for place in places]
    said = [[run["answers"][one.key]["prediction"] for one in some] for run in runs]
    found, whole = [], []
    for one, own in zip(plans, said, strict=True):
        again = list(map(second, asks, own, questions))
        logits, seen, turn = _asked(work, one, asks, said[0], again)
        whole = whole or logits
        pairs = list(zip(whole, logits, strict=True))
        draw = maps.looked if one is plans[0] else maps.kept
        found.append(
            {
                "sure": [float(row[0].softmax(-1).max()) for row in logits],
                "first": [apart(a[:1], b[:1]) for a, b in pairs],
                "apart": [apart(a, b) for a, b in pairs],
                "second": turn,
                "map": maps.written(maps.mean(draw(seen, shape), shape)) if seen else None,
                "images": sum(len(images) for images, _ in asks),
            }
        )
    return found


def _asked(
    work: Work, one: Plan, asks: Sequence[Ask], answers: Sequence[str], again: Sequence[Ask]
) -> tuple[list[Tensor], list[Step], list[str]]:
    """The logits of these answers behind their prompts, the steps on the way, and the second answers."""
    model, processor, seen = work.loaded.model, work.loaded.processor, []
    method, lead = one.compressor, Chat(processor).lead
    given = [lead + answer if answer else "" for answer in answers]
    with nullcontext() if method is None else attach.compressed(model, method, **one.how):
        with nullcontext() if method is None else attach.trace(model) as trace:
            logits = [row for row, _ in following(model, processor, asks, given)]
            seen = [] if trace is None else trace.steps
        turn = replies(model, processor, again, work.max_new_tokens)
    return logits, seen, [reply.text for reply in turn]


def apart(whole: Tensor, fewer: Tensor) -> float:
    """KL(all tokens ‖ fewer) in nats, the mean over the rows of logits (T, V)."""
    wanted, found = whole.log_softmax(-1), fewer.log_softmax(-1)
    every = kl_div(found, wanted, log_target=True, reduction="none").nan_to_num(0.0)
    return max(0.0, float(every.sum(-1).mean()))


def _joined(batches: Sequence[dict[str, Any]], shape: tuple[int, int]) -> dict[str, Any]:
    """One run's batches as one."""
    names = ("sure", "first", "apart", "second")
    drawn = [one for one in batches if one["map"] is not None]
    each, many = [np.array(one["map"], float) for one in drawn], [one["images"] for one in drawn]
    return {
        **{name: [value for one in batches for value in one[name]] for name in names},
        "map": maps.written(maps.mean(each, shape, many)) if drawn else None,
    }


def _looking(work: Work) -> tuple[Plan, str]:
    """The model with all tokens, seen through every decoder layer's attention; else why it is not."""
    model = work.loaded.model
    layers = range(1, len(traits.decoder_of(traits.base_of(model)).layers))
    try:
        looking = Chain(*(FastV(1.0, layer) for layer in layers))
        with attach.compressed(model, looking):
            return Plan(BARE, 1.0, compressor=looking), ""
    except (ValueError, TypeError, NotImplementedError) as error:
        return Plan(BARE, 1.0), str(error)


def _shape(work: Work, plans: Sequence[Plan]) -> tuple[int, int]:
    """Rows and columns of the maps, by the first question about a picture."""
    one, model = plans[-1], work.loaded.model
    first = next((ask(e, work.metric) for e in work.examples if e.images), None)
    if one.compressor is None or first is None:
        return maps.MOST, maps.MOST
    with attach.compressed(model, one.compressor, **one.how):
        return maps.shape_of(steps(model, work.loaded.processor, [first])[0])


def _called(runs: Runs) -> str:
    """A short name for these very runs."""
    jobs = json.dumps([run["job"] for run in runs], sort_keys=True)
    return hashlib.sha256(jobs.encode()).hexdigest()[:16]
