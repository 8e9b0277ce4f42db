"""How likely a model finds an answer, read from its logits: it says nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveate.evaluate.prompts import Ask, acting, tokens, told
from foveate.evaluate.replies import Reply, as_read, replies, want_numbers
from foveate.hosts import attach
from foveate.hosts.attachment import attachment_of

IGNORED = -100


def likeliest(
    model: Any, processor: Any, asks: Sequence[Ask], choices: Sequence[Sequence[str]]
) -> list[Reply]:
    """For each of a batch of questions the letter of its likeliest choice, by the mean over its tokens."""
    table = []
    for n in range(max(map(len, choices))):
        words = [f" {some[min(n, len(some) - 1)]}" for some in choices]
        table.append([loss for loss, _ in losses(model, processor, asks, words)])
    found = []
    for row, reply in enumerate(replies(model, processor, asks, 1)):
        own = [column[row] for column in table[: len(choices[row])]]
        found.append(replace(reply, text=chr(ord("A") + own.index(min(own)))))
    return found


def losses(
    model: Any, processor: Any, asks: Sequence[Ask], answers: Sequence[str]
) -> list[tuple[float, bool]]:
    """Of each answer behind its prompt the mean loss of its tokens, and whether the model would say it.

    Raises as `following` does, and ValueError for an answer without a token.
    """
    found = []
    rows = following(model, processor, asks, answers)
    for answer, (logits, right) in zip(answers, rows, strict=True):
        if not len(right):
            raise ValueError(f"{answer!r} has no token to be said")
        scores = logits[:-1]
        lost = torch.nn.functional.cross_entropy(scores, right)
        found.append((float(lost), bool((scores.argmax(-1) == right).all())))
    return found


@torch.inference_mode()
def following(
    model: Any, processor: Any, asks: Sequence[Ask], answers: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """Of each answer behind its prompt the logits (T + 1, V) of its tokens and its end, and the tokens (T,).

    Compressors read the prompt alone. Raises FloatingPointError where the logits are no numbers, ValueError
    for a model with a ladder and for tokenizers that do not say where their tokens stand.
    """
    if attach.is_compressed(model) and attachment_of(model).ladder is not None:
        raise ValueError(
            "a ladder climbs by the first token of an answer, and choices are scored without one: take one "
            "budget, such as --keep 36, or --metric exact"
        )
    inputs, asked, answered = tokens(processor, asks, answers)
    inputs, answered = as_read(model, inputs), answered.to(model.device)
    ids = inputs["input_ids"]
    with told(acting(model), asked):
        logits = model(**inputs, labels=ids.masked_fill(~answered, IGNORED)).logits
    found = []
    for row, count in enumerate(answered.sum(1).tolist()):  # padding is on the left
        scores = logits[row, -count - 1 :].float()
        want_numbers(scores)
        found.append((scores, ids[row, ids.shape[1] - count :]))
    return found
