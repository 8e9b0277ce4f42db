"""Kept tokens at the positions they had: through the door that vLLM has for models with M-RoPE.

vLLM counts 0, 1, 2, …, and lets only models with M-RoPE say otherwise. A token brings its place in the image
along, behind its vector, on A axes: three for a model that has M-RoPE. Any other has one, and is served as
if it had three, by three rows of positions: the first is what the model reads, the second as if every token
stood where its placeholder does, the third what follows the prompt.

Letters: S columns of a prompt, M tokens of an image, D width, A axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BASE = 256  # bfloat16 has every whole number up to 256, and not all above


def carrying(x: Tensor, place: Tensor) -> Tensor:
    """Tokens with their places in an image and their numbers behind. x (M, D), place (A, M).

    → (M, D + 2A + 2).
    Raises ValueError for places that two digits do not count.
    """
    if place.numel() and int(place.max()) >= BASE**2:
        raise ValueError(f"an image of {int(place.max()) + 1} tokens: want at most {BASE**2}")
    told = torch.cat([place, torch.arange(len(x), device=place.device)[None]]).mT.to(x.device)
    digits = torch.stack([told // BASE, told % BASE], dim=-1).flatten(1)
    return torch.cat([x, digits.to(x.dtype)], dim=-1)


def carried(x: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (M, width), their places (A, M) and their numbers (M,), as `carrying` put them together."""
    digits = x[:, width:].long()
    told = (digits[:, ::2] * BASE + digits[:, 1::2]).mT
    return x[:, :width].contiguous(), told[:-1], told[-1]


def laid_out(length: int, images: Sequence[tuple[int, int, int]]) -> Tensor:
    """(3, S) the positions of a prompt whose images are still to be seen.

    images: where each begins, how many columns it takes, and how many it took uncompressed.
    """
    step = torch.ones(length, dtype=torch.long)
    for begin, now, whole in images:
        if begin + now < length:
            step[begin + now] += whole - now
    position = step.cumsum(0) - 1
    cut = sum(whole - now for _, now, whole in images)
    return torch.stack([position, position, torch.full_like(position, length + cut)])


def landed(position: Tensor, column: Tensor, place: Tensor, number: Tensor) -> Tensor:
    """(3, S) positions once tokens are known. column, number (M,), place (A, M): where they stand; theirs.

    With three axes, an image begins behind the text before it. The same twice as once, so that a chunk may
    be computed again.
    """
    position = position.clone()
    column, place, number = (value.to(position.device) for value in (column, place, number))
    if len(place) == 1:
        position[0, column] = position[1, column] - number + place[0]
        return position
    before = column - number - 1
    begin = torch.where(before < 0, 0, position[:, before.clamp(min=0)] + 1)
    position[:, column] = begin + place
    return position


def check_text(ids: Sequence[int], images: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError unless text stands before, behind and between images, by which `landed` finds them.

    images: where each begins and ends.
    """
    ends = {end for _, end in images}
    if any(begin in ends for begin, _ in images) or len(ids) in ends:
        raise ValueError(
            "an image without text behind it: vLLM would not know where kept tokens stand; put a word there, "
            "or the model's own marks, as its chat template does"
        )
