"""Questions asked with few tokens first: those whose first token is in doubt are asked again with more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from foveate.core.compressor import Compressor
from foveate.evaluate.prompts import Ask
from foveate.evaluate.replies import Reply, answers
from foveate.hosts import attach
from foveate.hosts.climbing import Doubtful


@dataclass(frozen=True)
class Climbed:
    """An answer, the rung it is from, and the visual tokens of an image on the whole way there."""

    reply: Reply
    rung: int
    tokens: float


def climb(
    model: Any,
    processor: Any,
    asks: Sequence[Ask],
    rungs: Sequence[Compressor | None],
    threshold: float,
    how: Mapping[str, Any],
    switches: Mapping[str, str],
) -> list[Climbed]:
    """The answers to a batch, in order; each row climbs by itself, to the last rung if need be.

    rungs: compressors, fewest tokens first; None is all tokens. threshold: as a `Way` has it. how: the
    keywords of `generate`; switches: as `foveate.compress` takes them. The model comes bare and goes bare. A
    row that climbs ends with its first token there, so what a rung costs it is its prefill.
    """
    left, spent = list(range(len(asks))), [0.0] * len(asks)
    found: dict[int, Climbed] = {}
    for number, rung in enumerate(rungs):
        may = torch.full((len(left),), number < len(rungs) - 1)
        doubtful = Doubtful(threshold, model.generation_config.eos_token_id, may)
        given = {**how, "logits_processor": [*how.get("logits_processor", ()), doubtful]}
        with nullcontext() if rung is None else attach.compressed(model, rung, **switches):
            said = answers(model, processor, [asks[row] for row in left], given)
        for row, reply, over in zip(left, said, doubtful.over.tolist(), strict=True):
            spent[row] += reply.after
            if not over:
                found[row] = Climbed(reply, number, spent[row])
        left = [row for row in left if row not in found]
        if not left:
            break
    return [found[row] for row in range(len(asks))]
