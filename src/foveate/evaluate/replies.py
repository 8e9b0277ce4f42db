"""What a model answers, and from how many visual tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.evaluate.prompts import Ask, acting, encode, told
from foveate.evaluate.shares import Kept, columns, kept
from foveate.hosts import attach, traits
from foveate.hosts.trace import Step


@dataclass(frozen=True)
class Reply:
    """An answer, and what the model had to read for it.

    before   visual tokens per image, before compression
    after    the same, after its last step
    kept     how many are left, step by step and over the layers
    columns  of the prompt in each decoder layer; None where that was not noted
    words    columns of the prompt that are no image's
    carried  of each image, the token that carries each patch at the end, and where the patches stand: (P,)
             and (P, 3); empty of a bare model, and where rows are no images
    """

    text: str
    before: float
    after: float
    kept: Kept
    columns: tuple[int, ...] | None
    words: int
    carried: tuple[tuple[Tensor, Tensor], ...] = field(default=(), compare=False, repr=False)


@torch.inference_mode()
def replies(model: Any, processor: Any, asks: Sequence[Ask], max_new_tokens: int) -> list[Reply]:
    """Greedy answers to one batch of questions, in order.

    Raises FloatingPointError where the model's logits are no numbers: what it would say means nothing.
    """
    inputs, asked = encode(processor, asks)
    inputs = inputs.to(model.device)
    floating = {k: v.to(model.dtype) for k, v in inputs.items() if v.is_floating_point()}
    greedy = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
    with told(acting(model), asked), _watched(model) as steps:
        greedy["logits_processor"] = [_finite]
        out = model.generate(**{**inputs, **floating}, **greedy, return_dict_in_generate=True)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    texts = processor.batch_decode(out.sequences[:, ids.shape[1] :], skip_special_tokens=True)
    base, images = traits.base_of(model), [len(some) for some, _ in asks]
    layers = len(traits.decoder_of(base).layers)
    left = kept(steps[: _acts(model)], images, layers)  # without a cache, every word is a prefill
    had = columns(out.past_key_values, mask, layers, attach.is_compressed(model))
    words = (~traits.is_visual(base, ids) & mask.bool()).sum(1).tolist()
    found = []
    for row, (text, before) in enumerate(zip(texts, _placed(base, ids, images), strict=True)):
        after = left[row].steps[-1] if left[row].steps else before
        own = None if had is None else tuple(had[row])
        carried = _carried(steps[: _acts(model)], images, row)
        found.append(Reply(text.strip(), before, after, left[row], own, words[row], carried))
    return found


def _carried(steps: list[Step], images: list[int], row: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Of each image of a prompt, who carries its patches after the last step, and where they stand."""
    if not steps or steps[0].grid is None or len(steps[-1].owner) != sum(images):
        return ()
    first = sum(images[:row])
    which = range(first, first + images[row])
    return tuple((steps[-1].owner[i].cpu(), steps[0].grid[i].cpu()) for i in which)


def _finite(ids: Tensor, scores: Tensor) -> Tensor:
    """The scores (B, V) of the next token, as they are; refused where none of a row is the largest."""
    if lost := int((~scores.amax(-1).isfinite()).sum()):
        raise FloatingPointError(
            f"the model's logits are no numbers for {lost} of {len(scores)} questions: its weights, or an "
            f"argument of the method, lead out of the range of {scores.dtype}"
        )
    return scores


@contextmanager
def _watched(model: Any) -> Iterator[list[Step]]:
    """The steps of the prefills inside; none of a bare model."""
    if not attach.is_compressed(model):
        yield []
        return
    with attach.trace(model) as seen:
        yield seen.steps


def _acts(model: Any) -> int:
    """How many compressors act in one prefill."""
    return 0 if (method := acting(model)) is None else len(method.at(1.0).parts())


def _placed(base: Any, ids: Tensor, images: list[int]) -> list[float]:
    """Placeholders per image of each prompt."""
    count = (ids == traits.placeholder_id(base)).sum(1).tolist()
    return [n / max(i, 1) for n, i in zip(count, images, strict=True)]
