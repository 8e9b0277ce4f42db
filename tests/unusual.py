"""Calls that a bare model may take and a compressed one refuses, each as (model, batch)."""

from __future__ import annotations

import torch
from calling import greedy


def prepared_mask(m, x):
    S = x["input_ids"].shape[1]
    mask = torch.ones(len(x["input_ids"]), 1, S, S, dtype=torch.bool).tril()
    return m(**{**x, "attention_mask": mask})


def embedded(m, x):
    return m(inputs_embeds=torch.randn(1, 20, 64))


def in_chunks(m, x):
    return greedy(m, x, 2, prefill_chunk_size=7)


def an_image_later(m, x):
    cache = m(**x, use_cache=True).past_key_values
    return m(**x | {"attention_mask": x["attention_mask"].repeat(1, 2)}, past_key_values=cache)


def other_rows(m, x):
    cache = m(**x, use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    return m(input_ids=torch.full((2 * len(x["input_ids"]), 1), 5), past_key_values=cache)


def gradients_without_labels(m, x):
    with torch.enable_grad():
        return m.train()(**x)


def looked_up(m, x):
    x["input_ids"][:, -2:] = x["input_ids"][:, -6:-4]  # so there is something to look up
    return greedy(m, x, 5, prompt_lookup_num_tokens=3)


def another_layer(m, x):
    return m(**x, vision_feature_layer=-3)
