"""A training step, forward and backward: with a method, beside the bare model and the short prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.clock import Advance, Spread, interleaved, peak_bytes, ratio
from foveate.bench.limits import ideal, missing, shortened
from foveate.core.compressor import Compressor
from foveate.hosts.attach import compress, set_progress
from foveate.hosts.learnt import head_on_answers
from foveate.hosts.twins import twin

ANSWER = 16  # columns at the end of a prompt that are learnt
Step = Callable[[], Any]


def training_steps(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    method: Compressor | None,
    layers: Sequence[int],
    rounds: int,
    advance: Advance | None = None,
    until: float = math.inf,
) -> dict[str, Any]:
    """Seconds and peak bytes of a step that trains all weights, plain and with gradient checkpointing.

    The head runs where an answer is learnt, as in `foveate train`, in all of them.
    With a method also in a ratio to the bare model's step and to that of physically short prompts, in which
    each length has the weight of its layers. layers: visual columns in each; until: as in `interleaved`.
    """
    found = {}
    for name, checkpointing in (("plain", False), ("checkpointing", True)):
        calls = _calls(model, inputs, method, layers, checkpointing)
        timings = interleaved(calls, rounds, 1, advance, until)
        peaks = {what: peak_bytes(call, model.device) for what, call in calls.items()}
        mine = timings[last := "bare" if method is None else "method"]
        found[name] = {
            "step_s": asdict(Spread.of([t.wall for t in mine])),
            "peak_bytes": peaks[last],
        }
        if method is not None:
            lengths = {n: timings.get(n, timings["bare"]) for n in layers}
            found[name] |= {
                "to_bare": asdict(ratio(mine, timings["bare"])),
                "to_limit": asdict(ratio(mine, ideal(lengths, layers))),
                "peak_to_bare": peaks[last] / peaks["bare"],
                "peak_to_limit": peaks[last] / max(peaks.get(n, peaks["bare"]) for n in layers),
            }
    return found


def _calls(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    method: Compressor | None,
    layers: Sequence[int],
    checkpointing: bool,
) -> dict[Any, Step]:
    """A step of the bare model, of short prompts, and with the method; all on the same weights."""
    bare = twin(model).train()
    if checkpointing:
        # Newer transformers call it by another name, and warn of this one.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(getattr(bare, name) for name in names if hasattr(bare, name))
        enable({"use_reentrant": False})
    ids = inputs["input_ids"]
    labels = ids.where(torch.arange(ids.shape[1], device=ids.device) >= ids.shape[1] - ANSWER, -100)
    calls: dict[Any, Step] = {"bare": partial(_step, bare, lambda: inputs, labels)}
    for n in missing(bare, inputs, layers):
        calls[n] = partial(_step, bare, shortened(bare, inputs, n), labels)
    if method is not None:
        small = compress(twin(bare), method)
        set_progress(small, 0, 1)
        calls["method"] = partial(_step, small, lambda: inputs, labels)
    return calls


def _step(model: nn.Module, prompt: Callable[[], Mapping[str, Tensor]], labels: Tensor) -> None:
    """Forward and backward; labels begin with columns that no loss counts, of which there may be too many."""
    with torch.enable_grad(), head_on_answers(model):
        given = prompt()
        columns = given["attention_mask"].shape[1]
        model(**given, labels=labels[:, -columns:], use_cache=False).loss.backward()
    model.zero_grad()
