"""What a method has to beat: a smaller picture, no picture, and one that knows where the answer is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate.chat.pictures import is_video
from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, top
from foveate.core.spec import Skipped
from foveate.core.tokens import VisualTokens
from foveate.evaluate.comparison import LOWER
from foveate.evaluate.plans import Loaded, Plan
from foveate.evaluate.prompts import ask, encode
from foveate.evaluate.recall import holding
from foveate.hosts import traits
from foveate.hosts.twins import shrunk

GREY = (128, 128, 128)


class Through:
    """A processor that is given every picture changed."""

    def __init__(self, processor: Any, change: Callable[[Image.Image], Image.Image]):
        self._of, self._change = processor, change

    def __call__(self, images: Sequence[Sequence[Image.Image]], **kwargs: Any) -> Any:
        """A batch as the processor makes it. images: of each prompt."""
        return self._of(images=[[self._change(i) for i in some] for some in images], **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


class Oracle(Compressor):
    """Keep what is asked about first, then tokens at even steps. A baseline that knows the task: no paper.

    asked: of each image of the batch, (height, width), 0 where nothing is asked about.
    """

    needs = frozenset({"grid"})
    selects = True
    site = language(0)

    def __init__(self, keep: Keep, asked: Sequence[np.ndarray] = ()):
        super().__init__()
        self.keep, self.asked = check_keep(keep), asked

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """What is asked about, and some more. tokens.x (B, N, D)."""
        n = budget(self.keep, tokens.counts[:, None])
        held = tokens.of_first(self._held(context.grid)) & tokens.valid
        first = top(held.float(), n.minimum(held.sum(1, keepdim=True)), tokens.valid)
        return tokens.where(first | _evenly(tokens.valid & ~first, n - first.sum(1, keepdim=True)))

    def _held(self, grid: Tensor) -> Tensor:
        """(B, P) which patches hold what is asked about."""
        return torch.stack([holding(a, g) for a, g in zip(self.asked, grid, strict=True)])

    def arguments(self) -> dict[str, Any]:
        """The budget: what is asked comes with each batch."""
        return {"keep": self.keep}


class Misled(Compressor):
    """A method that is told the question of another prompt in the batch. A control: no paper.

    Of a batch of one it is told its own.
    """

    def __init__(self, of: Compressor):
        super().__init__()
        self.of, self.site, self.seed = of, of.site, of.seed
        self.needs, self.optional, self.vision_layers = of.needs, of.optional, of.vision_layers
        self.selects = of.selects

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """As the method does with other words. tokens.x (B, N, D)."""
        far = max(len(tokens.x) // 2, 1)  # far enough for prompts of several images
        fields = {name: getattr(context, name) for name in ("text", "text_ids", "text_mask")}
        other = {name: v.roll(far, 0) for name, v in fields.items() if v is not None}
        return self.of(tokens, replace(context, **other))

    def arguments(self) -> dict[str, Any]:
        """None: it is saved nowhere."""
        return {}


def _evenly(among: Tensor, n: Tensor) -> Tensor:
    """(B, N) True at n of the tokens that are marked, at even steps. among (B, N), n (B, 1)."""
    count, rank = among.sum(1, keepdim=True).clamp(min=1), among.cumsum(1)
    return among & (rank * n // count > (rank - 1) * n // count)


def baselines(
    loaded: Loaded, names: Sequence[str], keeps: Sequence[Keep], examples: Sequence[Any]
) -> tuple[list[Plan], list[Skipped]]:
    """The runs of these baselines at these budgets, and which there cannot be.

    downsample  the picture made smaller until it has no more tokens than that
    blind       a grey picture instead, with all its tokens
    oracle      what is asked about first, where the task knows it
    """
    found, skipped = [], []
    for name in names:
        for keep in [1.0] if name == "blind" else keeps:
            try:
                found.append(BASELINES[name](loaded, keep, examples))
            except NotImplementedError as error:
                skipped.append({"method": name, "keep": keep, "why": str(error)})
    return found, skipped


def _want_pictures(examples: Sequence[Any]) -> None:
    if any(is_video(one) for example in examples for one in example.images):
        raise NotImplementedError("it changes pictures, and some of these are videos")


def _downsampled(loaded: Loaded, keep: Keep, examples: Sequence[Any]) -> Plan:
    """A tower of one size gets a smaller table of positions; another a smaller picture."""
    _want_pictures(examples)
    whole = _seen(loaded, examples[0])
    most = int(budget(keep, torch.tensor(whole)))
    try:
        model, processor = shrunk(loaded.model, loaded.processor, math.isqrt(most))
        own = replace(loaded, model=model, processor=processor)
    except NotImplementedError:
        side = math.sqrt(most / whole)
        own = replace(loaded, processor=Through(loaded.processor, lambda i: scaled(i, side)))
    try:
        tokens = _seen(own, examples[0])
    except (ValueError, RuntimeError, IndexError) as error:
        raise NotImplementedError(f"this model takes no smaller pictures: {error}") from error
    if tokens > most:
        raise NotImplementedError(
            f"its processor makes {tokens} tokens of a picture that should give {most}"
        )
    return Plan("downsample", keep, own=own)


def _seen(loaded: Loaded, example: Any) -> int:
    """Visual tokens of an example, which the model is shown."""
    model = loaded.model
    inputs, _ = encode(loaded.processor, [ask(example)])
    inputs = inputs.to(model.device)
    floating = {k: v.to(model.dtype) for k, v in inputs.items() if v.is_floating_point()}
    with torch.inference_mode():
        model(**{**inputs, **floating}, logits_to_keep=1)
    return int(traits.is_visual(traits.base_of(model), inputs["input_ids"]).sum())


def scaled(image: Image.Image, side: float) -> Image.Image:
    """The picture with this share of its width and height."""
    return image.resize([max(1, int(n * side)) for n in image.size], Image.Resampling.BICUBIC)


def _blind(loaded: Loaded, keep: Keep, examples: Sequence[Any]) -> Plan:
    _want_pictures(examples)
    grey = Through(loaded.processor, lambda image: Image.new("RGB", image.size, GREY))
    return Plan("blind", keep, own=replace(loaded, processor=grey))


def _oracle(loaded: Loaded, keep: Keep, examples: Sequence[Any]) -> Plan:
    if not all(getattr(example, "asked", ()) for example in examples):
        raise NotImplementedError("this task does not know where the answers are")

    def of_batch(some: Sequence[Any]) -> Oracle:
        return Oracle(keep, [regions for example in some for regions in example.asked])

    return Plan("oracle", keep, compressor=Oracle(keep), of_batch=of_batch)


BASELINES = dict(zip(LOWER, (_downsampled, _blind, _oracle), strict=True))
