"""Prefill time of a compressed model against the bare one, call by call in turn."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

PAIRS = 9


def prefill(
    model: Any, inputs: dict[str, Any], compressor: Any, pairs: int = PAIRS
) -> dict[str, Any]:
    """The median ratio of interleaved prefills, with its quartiles, and both median times in seconds.

    model is bare, and bare again afterwards. compressor None is the bare model itself, ratio 1.
    """
    import foveate

    weights = itertools.chain(model.parameters(), model.buffers())
    bare = copy.deepcopy(
        model, {id(w): w for w in weights}
    )  # the modules again, the weights shared
    if compressor is None:
        seconds = statistics.median(_pass(bare, inputs) for _ in range(3))
        return {"ratio": 1.0, "interval": [1.0, 1.0], "seconds": seconds, "bare_seconds": seconds}
    with foveate.compressed(model, compressor):
        for each in (bare, model):
            _pass(each, inputs)
        times = [(_pass(bare, inputs), _pass(model, inputs)) for _ in range(pairs)]
    ratios = [own / other for other, own in times]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": statistics.median(ratios),
        "interval": [low, high],
        "seconds": statistics.median(own for _, own in times),
        "bare_seconds": statistics.median(other for other, _ in times),
    }


@torch.inference_mode()
def _pass(model: Callable[..., Any], inputs: dict[str, Any]) -> float:
    wait = torch.cuda.synchronize if inputs["input_ids"].is_cuda else lambda: None
    wait()
    started = time.perf_counter()
    model(**inputs, logits_to_keep=1)
    wait()
    return time.perf_counter() - started
