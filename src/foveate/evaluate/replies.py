"""What a model answers, and from how many visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from foveate.evaluate.prompts import Ask, acting, encode, told
from foveate.hosts import attach, traits


@dataclass(frozen=True)
class Reply:
    """An answer and the visual tokens per image, before compression and after its last step."""

    text: str
    before: float
    after: float


@torch.inference_mode()
def replies(model: Any, processor: Any, asks: Sequence[Ask], max_new_tokens: int) -> list[Reply]:
    """Greedy answers to one batch of questions, in order."""
    inputs, asked = encode(processor, asks)
    inputs = inputs.to(model.device)
    floating = {k: v.to(model.dtype) for k, v in inputs.items() if v.is_floating_point()}
    with told(acting(model), asked):
        out = model.generate(
            **{**inputs, **floating}, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
        )
    texts = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    before = _placed(model, inputs["input_ids"], [len(images) for images, _ in asks])
    after = _left(model, [len(images) for images, _ in asks]) or before
    return [Reply(t.strip(), b, a) for t, b, a in zip(texts, before, after, strict=True)]


def _placed(model: Any, ids: torch.Tensor, images: list[int]) -> list[float]:
    """Placeholders per image of each prompt."""
    count = (ids == traits.placeholder_id(traits.base_of(model))).sum(1).tolist()
    return [n / max(i, 1) for n, i in zip(count, images, strict=True)]


def _left(model: Any, images: list[int]) -> list[float] | None:
    """Tokens left per image of each prompt; None for a bare model."""
    counts = attach.last_counts(model) if attach.is_compressed(model) else None
    if not counts:
        return None
    if len(counts) != sum(images):  # a processor that tiles: rows are no longer the user's images
        return [sum(counts) / sum(images)] * len(images)
    ends = torch.tensor(images).cumsum(0).tolist()
    spans = [counts[end - n : end] for end, n in zip(ends, images, strict=True)]
    return [sum(span) / max(len(span), 1) for span in spans]
