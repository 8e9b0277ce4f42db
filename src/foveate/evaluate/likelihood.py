"""Which of several answers a model finds likeliest, read from its logits: it says nothing itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from foveate.evaluate.prompts import Ask, acting, encode, told
from foveate.evaluate.replies import Reply, replies

IGNORED = -100


@torch.inference_mode()
def likeliest(
    model: Any, processor: Any, asks: Sequence[Ask], choices: Sequence[Sequence[str]]
) -> list[Reply]:
    """For each of a batch of questions the letter of its likeliest choice, by the mean over its tokens.

    The prompt is read and compressed as for an answer that is generated; every choice then follows it from
    the same cache, so that no compressor sees one.
    """
    seen = replies(model, processor, asks, 1)
    inputs, asked = encode(processor, asks)
    inputs = inputs.to(model.device)
    floating = {k: v.to(model.dtype) for k, v in inputs.items() if v.is_floating_point()}
    with told(acting(model), asked):
        prompt = model(**{**inputs, **floating}, use_cache=True)
    mask, scores = inputs["attention_mask"], []
    for n in range(max(map(len, choices))):
        words = [some[min(n, len(some) - 1)] for some in choices]
        scores.append(_loss(model, _ids(processor, words).to(mask), mask, prompt))
    table = torch.stack(scores, 1).cpu()
    found = []
    for row, (reply, some) in enumerate(zip(seen, choices, strict=True)):
        best = int(table[row, : len(some)].argmin())
        found.append(replace(reply, text=chr(ord("A") + best)))
    return found


def _ids(processor: Any, texts: Sequence[str]) -> Tensor:
    """Tokens of what would be said, IGNORED behind the shorter ones. (B, T)."""
    rows = processor.tokenizer([f" {text}" for text in texts], add_special_tokens=False)[
        "input_ids"
    ]
    return pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=IGNORED
    )


def _loss(model: Any, ids: Tensor, mask: Tensor, prompt: Any) -> Tensor:
    """(B,) the mean loss of these tokens behind the prompt. ids (B, T), mask (B, S) of the prompt."""
    there = ids != IGNORED
    step = model(
        input_ids=ids.clamp(min=0),
        attention_mask=torch.cat([mask, there.to(mask)], 1),
        past_key_values=copy.deepcopy(prompt.past_key_values),
        use_cache=True,
    )
    logits = torch.cat([prompt.logits[:, -1:], step.logits[:, :-1]], 1).float()
    loss = cross_entropy(logits.transpose(1, 2), ids, ignore_index=IGNORED, reduction="none")
    return loss.sum(1) / there.sum(1).clamp(min=1)
