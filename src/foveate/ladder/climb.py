"""Questions asked with few tokens first: those whose first token is in doubt are asked again with more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor
from foveate.evaluate.prompts import Ask
from foveate.evaluate.replies import Reply, answers, entropy
from foveate.hosts import attach

NEVER = -1.0  # no doubt is as small


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
        final = number == len(rungs) - 1
        limit = torch.inf if final else threshold if threshold > 0 else NEVER
        doubtful = [] if final else [_Doubtful(limit, model.generation_config)]
        given = {**how, "logits_processor": [*how.get("logits_processor", ()), *doubtful]}
        with nullcontext() if rung is None else attach.compressed(model, rung, **switches):
            said = answers(model, processor, [asks[row] for row in left], given) if left else []
        for row, reply in zip(left, said, strict=True):
            spent[row] += reply.after
            if final or reply.doubt <= limit:
                found[row] = Climbed(reply, number, spent[row])
        left = [row for row in left if row not in found]
    return [found[row] for row in range(len(asks))]


class _Doubtful:
    """Ends the rows whose first token is in doubt, right there."""

    def __init__(self, threshold: float, config: Any):
        ends = config.eos_token_id
        self.threshold, self.ends = (
            threshold,
            torch.as_tensor([] if ends is None else ends).flatten(),
        )
        self.over: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V), with the end alone where the first ones were in doubt."""
        if self.over is None:
            self.over = ~(entropy(scores) <= self.threshold)
        if not len(self.ends) or not bool(self.over.any()):
            return scores
        ended = scores.new_full(scores.shape[-1:], -torch.inf)
        ended[self.ends.to(scores.device)] = 0.0
        return torch.where(self.over[:, None], ended, scores)
