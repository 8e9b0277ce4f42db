"""What a model answers, and from how many visual tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveate.evaluate.prompts import Ask, acting, encode, told
from foveate.evaluate.shares import Kept, columns, kept
from foveate.hosts import attach, traits
from foveate.hosts.attachment import attachment_of
from foveate.hosts.climbing import Climbing, Doubtful, check_greedy, entropy, every
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
    made     tokens of the answer, with the one that ends it
    seconds  until its first token was chosen, a prompt's share of its batch
    doubt    entropy of that token, in nats; None with beams
    rung     of a model with a ladder, the budget it is from; `after`, `columns` and `seconds` are then of the
             whole way there
    """

    text: str
    before: float
    after: float
    kept: Kept
    columns: tuple[int, ...] | None
    words: int
    carried: tuple[tuple[Tensor, Tensor], ...] = field(default=(), compare=False, repr=False)
    made: int = 0
    seconds: float = field(default=0.0, compare=False)
    doubt: float | None = field(default=None, compare=False)
    rung: int | float | None = None

    def behind(self, lower: Reply) -> Reply:
        """This answer, after one with fewer tokens was in doubt."""
        both = zip(lower.columns or (), self.columns or (), strict=False)
        return replace(
            self,
            after=lower.after + self.after,
            columns=tuple(map(sum, both)) or None,
            seconds=lower.seconds + self.seconds,
        )


# Keywords of `generate`; or what makes them for some of the rows, of which some may be in doubt.
How = Mapping[str, Any] | Callable[[Sequence[int], Doubtful | None], Mapping[str, Any]]


def replies(model: Any, processor: Any, asks: Sequence[Ask], max_new_tokens: int) -> list[Reply]:
    """Greedy answers to one batch of questions, in order.

    Raises FloatingPointError where the model's logits are no numbers: what it would say means nothing.
    """
    greedy = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
    return answers(model, processor, asks, greedy)


@torch.inference_mode()
def answers(model: Any, processor: Any, asks: Sequence[Ask], how: How) -> list[Reply]:
    """As `replies`, however `generate` is told to make them: its keywords, logits_processor too.

    With beams, no columns are noted. A model with a ladder answers each row from as few tokens as it says.
    """
    ladder = attachment_of(model).ladder if attach.is_compressed(model) else None
    if ladder is not None:
        return _climbed(ladder, processor, asks, how)
    given = how([*range(len(asks))], None) if callable(how) else how
    return _answered(model, processor, asks, given, model.generate)


def _climbed(ladder: Climbing, processor: Any, asks: Sequence[Ask], how: How) -> list[Reply]:
    """The answers of a model with a ladder: what is in doubt on one rung is asked again on the next."""
    model, left = ladder.model, [*range(len(asks))]
    own, found = partial(type(model).generate, model), {}
    for number, keep in enumerate(ladder.keeps):
        last = number == len(ladder.keeps) - 1
        may = torch.tensor([bool(asks[row][0]) and not last for row in left])
        doubtful = Doubtful(ladder.threshold, model.generation_config.eos_token_id, may)
        given = how(left, doubtful) if callable(how) else how
        check_greedy(**given)
        given = {**given, "logits_processor": [doubtful, *given.get("logits_processor", ())]}
        with ladder.at(keep):
            said = _answered(model, processor, [asks[row] for row in left], given, own)
        for row, reply in zip(left, said, strict=True):
            if every(keep) and reply.kept.share is not None:  # as many steps as on other rungs
                steps = (reply.before,) * (1 + _acts(model))
                reply = replace(reply, kept=replace(reply.kept, steps=steps))
            reply = replace(reply, rung=keep)
            found[row] = reply.behind(found[row]) if row in found else reply
        left = [row for row, over in zip(left, doubtful.over.tolist(), strict=True) if over]
        if not left:
            break
    return [found[row] for row in range(len(asks))]


def _answered(
    model: Any,
    processor: Any,
    asks: Sequence[Ask],
    how: Mapping[str, Any],
    generate: Callable[..., Any],
) -> list[Reply]:
    """One batch, as `generate` is told to answer it."""
    inputs, asked = encode(processor, asks)
    inputs, first = as_read(model, inputs), _First()
    with told(acting(model), asked), _watched(model) as steps:
        processors = [first, *how.get("logits_processor", ())]
        seen = {**how, "logits_processor": processors, "return_dict_in_generate": True}
        out = generate(**inputs, **seen)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    said = out.sequences[:, ids.shape[1] :]
    texts = processor.batch_decode(said, skip_special_tokens=True)
    base, images = traits.base_of(model), [len(some) for some, _ in asks]
    layers = len(traits.decoder_of(base).layers)
    left = kept(steps[: _acts(model)], images, layers)  # without a cache, every word is a prefill
    one = how.get("num_beams", 1) == 1
    had = columns(out.past_key_values, mask, layers, attach.is_compressed(model)) if one else None
    words = (~traits.is_visual(base, ids) & mask.bool()).sum(1).tolist()
    made, seconds = _lengths(model, said), first.seconds / len(asks)
    found = []
    for row, (text, before) in enumerate(zip(texts, _placed(base, ids, images), strict=True)):
        after = left[row].steps[-1] if left[row].steps else before
        own = None if had is None else tuple(had[row])
        carried = _carried(steps[: _acts(model)], images, row)
        read = (before, after, left[row], own, words[row], carried)
        doubt = first.doubts[row] if one else None
        found.append(Reply(text.strip(), *read, made[row], seconds, doubt))
    return found


def as_read(model: Any, inputs: Any) -> dict[str, Tensor]:
    """A batch where the model is, pictures in its precision."""
    inputs = inputs.to(model.device)
    return {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def _lengths(model: Any, said: Tensor) -> list[int]:
    """Tokens of each answer (B, T) up to the one that ends it."""
    ends = model.generation_config.eos_token_id
    ends = torch.as_tensor([] if ends is None else ends).to(said).flatten()
    over = torch.isin(said, ends).cumsum(1) - torch.isin(said, ends).long()
    return (over == 0).sum(1).tolist()


def _carried(steps: list[Step], images: list[int], row: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Of each image of a prompt, who carries its patches after the last step, and where they stand."""
    if not steps or steps[0].grid is None or len(steps[-1].owner) != sum(images):
        return ()
    first = sum(images[:row])
    which = range(first, first + images[row])
    return tuple((steps[-1].owner[i].cpu(), steps[0].grid[i].cpu()) for i in which)


class _First:
    """Sees the scores of every next token; notes how long the first one took, and how sure it was."""

    def __init__(self) -> None:
        self.start, self.seconds = time.perf_counter(), 0.0
        self.doubts: list[float] = []

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V) as they are; refused where none of a row is the largest."""
        want_numbers(scores)
        if not self.doubts:
            self.seconds = time.perf_counter() - self.start
            self.doubts = entropy(scores).tolist()
        return scores


def want_numbers(scores: Tensor) -> None:
    """Raise FloatingPointError where the largest of a row of scores (B, V) is no number."""
    if lost := int((~scores.amax(-1).isfinite()).sum()):
        raise FloatingPointError(
            f"the model's logits are no numbers for {lost} of {len(scores)} questions: its weights, or an "
            f"argument of the method, lead out of the range of {scores.dtype}"
        )


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
