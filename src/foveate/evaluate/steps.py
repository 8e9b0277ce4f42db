"""What a compressor does to the images of a task, step by step: how many patches its tokens carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from foveate.evaluate.prompts import Ask, acting, encode, told
from foveate.hosts import attach
from foveate.hosts.trace import Step


@torch.inference_mode()
def steps(model: Any, processor: Any, asks: Sequence[Ask]) -> list[Step]:
    """The steps of one batch's prefill, in flow order. The model is compressed already."""
    inputs, asked = encode(processor, asks)
    inputs = inputs.to(model.device)
    floating = {k: v.to(model.dtype) for k, v in inputs.items() if v.is_floating_point()}
    with attach.trace(model) as seen, told(acting(model), asked):
        model(**{**inputs, **floating}, logits_to_keep=1)
    return seen.steps


def sizes(
    model: Any,
    processor: Any,
    asks: Sequence[Ask],
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """For each step of a compressed model, how many patches its tokens carry, over all these questions.

    A step is {"site", "tokens" and "patches" of an image in the mean, "dropped": share of the patches that
    no token carries any more, "sizes": [{"patches", "tokens": share of the tokens that carry so many,
    "area": share of the patches that such tokens carry}, …] from few to many patches}.
    """
    tallies: list[tuple[str, Counter]] = []
    for start in range(0, len(asks), batch_size):
        batch = asks[start : start + batch_size]
        found = [(str(step.site), _tally(step)) for step in steps(model, processor, batch)]
        tallies = tallies or [(site, Counter()) for site, _ in found]
        for (_, all_of_it), (_, some) in zip(tallies, found, strict=True):
            all_of_it.update(some)
        advance(len(batch))
    return [_shares(site, tally) for site, tally in tallies]


def _tally(step: Step) -> Counter:
    """How many tokens carry 1, 2, … patches, how many patches none does (0), how many images (-1)."""
    tally: Counter = Counter({0: int((step.owner == -1).sum()), -1: len(step.owner)})
    for owner in step.owner:
        tally.update(torch.bincount(owner[owner >= 0]).tolist())
    return tally


def _shares(site: str, tally: Counter) -> dict[str, Any]:
    images, dropped = tally.pop(-1), tally.pop(0)
    tokens = sum(tally.values())
    patches = dropped + sum(size * n for size, n in tally.items())
    return {
        "site": site,
        "tokens": tokens / images,
        "patches": patches / images,
        "dropped": dropped / patches,
        "sizes": [
            {"patches": size, "tokens": n / tokens, "area": size * n / patches}
            for size, n in sorted(tally.items())
        ],
    }
