"""What a run's prompts cost, counted from what each of them had in every layer."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch

from foveate.evaluate.prompts import Ask, acting, encode, told
from foveate.hosts import cost, traits

Probe = tuple[
    cost.Load, cost.Own | None
]  # what passes the model in one prefill, and the compressors


@torch.inference_mode()
def probes(model: Any, processor: Any, asks: Sequence[Ask]) -> list[Probe]:
    """The prefill of each of these prompts alone, watched."""
    base, found, compressor = traits.base_of(model), [], acting(model)
    for ask in asks:
        inputs, asked = encode(processor, [ask])
        inputs = inputs.to(model.device)
        inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        call = functools.partial(model, **inputs, logits_to_keep=1)
        words = int((~traits.is_visual(base, inputs["input_ids"])).sum())
        with told(compressor, asked):
            load = cost.watch(model, words, call)
            found.append((load, None if compressor is None else cost.own_macs(model, call)))
    return found


def costs(
    model: Any, watched: Sequence[Probe], answers: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Multiply-accumulates, cache bytes and equivalent tokens of a prefill, the mean over all answers.

    An answer knows how many `columns` its prompt had in each decoder layer, and how many of them are
    `words`; outside the decoder it costs what one of the watched prompts does, in turn.
    """
    compressor = acting(model)
    parts = [] if compressor is None else compressor.at(1.0).parts()

    @functools.cache
    def of(probe: int, lengths: tuple[int, ...] | None, words: int) -> dict[str, float]:
        load, own = watched[probe]
        if lengths is not None:
            load = replace(load, lengths=lengths, text=words)
        return cost.cost(model, load, parts, own).as_dict()

    total: Counter[str] = Counter()
    for probe, answer in zip(cycle(range(len(watched))), answers, strict=False):
        lengths = answer["columns"]
        total.update(of(probe, lengths and tuple(lengths), answer["words"]))
    return {name: value / len(answers) for name, value in total.items()}
