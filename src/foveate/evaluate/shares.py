"""How many visual tokens of a prompt are left: after each site, and in each layer of the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foveate.core.compressor import Compressor, language
from foveate.hosts.trace import Step


@dataclass(frozen=True)
class Kept:
    """What was kept of one prompt's images, newlines apart.

    steps        tokens of an image as they came, and after each compressor in flow order; the mean over the
                 prompt's images
    share        tokens left at the end, of those that came
    layer_share  tokens that enter a decoder layer, of those that came; the mean over the layers
    """

    steps: tuple[float, ...] = ()
    share: float | None = None
    layer_share: float | None = None


def kept(steps: Sequence[Step], images: Sequence[int], layers: int) -> list[Kept]:
    """What these steps of one prefill kept of each prompt; all of it without steps.

    images: how many each prompt has, of a prompt without any nothing is said. layers: decoder layers.
    """
    if not steps:
        return [Kept((), 1.0, 1.0) if n else Kept() for n in images]
    counts = [steps[0].before, *(step.after for step in steps)]
    left = [of_prompts(count.tolist(), images) for count in counts]
    entered = [sum(s.site <= language(layer) for s in steps) for layer in range(layers)]
    found = []
    for n, (came, *after) in zip(images, zip(*left, strict=True), strict=True):
        every = (came, *after)
        found.append(
            Kept(
                tuple(tokens / n for tokens in every),
                every[-1] / came,
                sum(every[reached] for reached in entered) / layers / came,
            )
            if n
            else Kept()
        )
    return found


def of_prompts(counts: Sequence[int], images: Sequence[int]) -> list[float]:
    """Tokens of each prompt's images together. Where rows are not the user's images, as of a processor
    that tiles, every image is taken for the mean."""
    if len(counts) != sum(images):
        return [n * sum(counts) / sum(images) for n in images]
    rows = iter(counts)
    return [sum(next(rows) for _ in range(n)) for n in images]


def columns(cache: Any, mask: Tensor, layers: int, compressed: bool) -> list[list[int]] | None:
    """Columns of each prompt in each decoder layer, padding apart; None where nothing remembers them.

    cache: what a prefill left behind, if anything. mask (B, S) of the uncompressed prompt.
    """
    memory = getattr(cache, "visual_memory", None)  # of a prompt with images, in a compressed model
    if compressed and cache is None:
        return None
    entered = mask.sum(1)
    if memory is not None and memory.real is not None:
        entered = memory.real.sum(1)
    elif memory is not None and memory.length != memory.outside:
        entered = entered.new_full(entered.shape, memory.length)
    stages = {} if memory is None else memory.stages
    found = []
    for layer in range(layers):
        entered = stages[layer].real.sum(1) if layer in stages else entered
        found.append(entered.tolist())
    return [list(row) for row in zip(*found, strict=True)]


def means(answers: Sequence[Mapping[str, Any]], method: Compressor | None) -> dict[str, Any]:
    """The steps and both shares of a run: the mean over its questions about images; {} without any."""
    seen = [a for a in answers if a["share"] is not None]
    if not seen:
        return {}
    parts = [] if method is None else method.at(1.0).parts()
    tokens = [_mean(every) for every in zip(*(a["steps"] for a in seen), strict=True)]
    return {
        "steps": [
            {"site": str(p.site), "compressor": type(p).__name__, "before": came, "after": left}
            for p, came, left in zip(parts, tokens, tokens[1:], strict=False)
        ],
        "share": _mean([a["share"] for a in seen]),
        "layer_share": _mean([a["layer_share"] for a in seen]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
