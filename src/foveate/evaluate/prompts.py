"""Questions about images as a model wants them, and where in them the user's own words stand."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from foveate.chat import Said, Span, Told, asked, columns, prompt, verify
from foveate.chat.pictures import is_video, read
from foveate.core.compressor import Compressor
from foveate.hosts import attach, traits
from foveate.hosts.asked import instruction
from foveate.hosts.videos import videos
from foveate.tasks.metrics import EXACT, Metric, labels

Ask = tuple[Sequence[Image.Image | Path], Told]  # the images of one prompt, and what is asked
# Needs that the user's words answer.
READS = frozenset({"text", "text_ids", "text_mask", "prompt_attention", "words"})


def ask(example: Any, metric: Metric = EXACT) -> Ask:
    """What a model is shown and told of an example, whose answer this metric scores."""
    words = getattr(example, "told", example.question)
    words = metric.asks(words, labels(example)) if isinstance(words, str) else words
    return example.images, words


def first(examples: Iterable[Any], metric: Metric = EXACT) -> Ask | None:
    """The first of them that is about a picture."""
    return next((ask(one, metric) for one in examples if one.images), None)


def encode(processor: Any, asks: Sequence[Ask]) -> tuple[Any, Tensor | None]:
    """One padded batch, and beside it the columns of the user's words: (B, S) bool, as in training.

    Padding is on the left, so that every answer begins at the same column. Without a fast tokenizer, or
    with a template that rewrites what is asked, None: the words cannot be found.
    """
    batch, asked, _ = tokens(processor, asks)
    return batch, asked


def tokens(
    processor: Any, asks: Sequence[Ask], answers: Sequence[str] | None = None
) -> tuple[Any, Tensor | None, Tensor | None]:
    """As `encode`; with an answer behind each prompt, the columns of those come third.

    Raises ValueError where these cannot be found: without a fast tokenizer, or one that names what it did.
    """
    kinds = [["video" if is_video(one) else "image" for one in own] for own, _ in asks]
    prompts = [prompt(processor, ask[1], own) for ask, own in zip(asks, kinds, strict=True)]
    texts = prompts if answers is None else list(map(str.__add__, prompts, answers))
    images = [[read(image) for image in own if not is_video(image)] for own, _ in asks]
    clips = [str(one) for own, _ in asks for one in own if is_video(one)]
    start = getattr(processor.tokenizer, "bos_token", None)
    fast = getattr(processor.tokenizer, "is_fast", False)
    if answers is not None and not fast:
        raise ValueError("answers behind a prompt: want a fast tokenizer, to find their columns")
    places = ("return_offsets_mapping", "return_text_replacement_offsets") if fast else ()
    batch = processor(
        images=images if any(images) else None,
        text=texts,
        padding=True,
        padding_side="left",
        add_special_tokens=not (start and texts[0].startswith(start)),
        return_tensors="pt",
        **videos(processor, clips),
        **dict.fromkeys(places, True),
    )
    offsets = batch.pop("offset_mapping", None)
    moves = batch.pop("text_replacement_offsets", None)
    marks = partial(marked, texts, [*map(len, kinds)], offsets, moves)
    try:
        found = marks(
            [asked(processor, a[1], k).questions for a, k in zip(asks, kinds, strict=True)]
        )
    except ValueError:
        found = None
    behind = [[(len(a), len(b))] for a, b in zip(prompts, texts, strict=True)]
    return batch, found, None if answers is None else marks(behind)


def marked(
    texts: Sequence[str],
    images: Sequence[int],
    offsets: Tensor | None,
    moves: Any,
    spans: Sequence[Sequence[Span]],
) -> Tensor | None:
    """The columns of some spans of each text; None without offsets. offsets (B, S, 2); (B, S) bool.

    images: how many each has. Raises ValueError where the processor changed more of a text than it names.
    """
    if offsets is None:
        return None
    rows = zip(texts, images, moves or [[] for _ in texts], offsets, spans, strict=True)
    found = []
    for text, count, moved, row, own in rows:
        verify(Said(text, (), ()), count, moved, row, "a prompt")
        found.append(columns(row, own, moved))
    return torch.stack(found)


def acting(model: Any) -> Compressor | None:
    """The compressor of a model; None of a bare one."""
    return traits.base_of(model).visual_compressor if attach.is_compressed(model) else None


@contextmanager
def told(compressor: Compressor | None, mask: Tensor | None) -> Iterator[None]:
    """Calls inside know the user's words, if the compressor reads them: mask (B, S), as `encode` finds it.

    Others are called as ever: the last row of a prompt stays its last. With mask None a compressor reads
    the whole prompt, which is warned of.
    """
    parts = [] if compressor is None else compressor.at(1.0).parts()
    if not any(READS & part.needs for part in parts):
        yield
        return
    if mask is None:
        warnings.warn(
            "the user's words cannot be found in the prompt, for want of a fast tokenizer or because the "
            "chat template rewrites them: the compressor reads the whole prompt instead"
        )
    with instruction(mask):
        yield
