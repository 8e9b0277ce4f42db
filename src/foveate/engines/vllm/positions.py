"""Kept tokens at the positions they had: through the door that vLLM has for models with M-RoPE.

vLLM counts 0, 1, 2, …, and lets only models with M-RoPE say otherwise. So a model is served as one that has
it, by three rows of positions: the first is what the model reads, the second as if every token stood where
its placeholder does, the third what follows the prompt. A token brings its place along, behind its vector.

Letters: S columns of a prompt, M tokens of an image, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DIGITS, BASE = 4, 256  # bfloat16 has every whole number up to 256, and not all above


def carrying(x: Tensor, place: Tensor) -> Tensor:
    """Tokens with their places among an image's own and their numbers behind. x (M, D) → (M, D + DIGITS).

    Raises ValueError for images of more tokens than two digits count.
    """
    if len(place) and int(place.max()) >= BASE**2:
        raise ValueError(f"an image of {int(place.max()) + 1} tokens: want at most {BASE**2}")
    number = torch.arange(len(x), device=x.device)
    digits = [place // BASE, place % BASE, number // BASE, number % BASE]
    return torch.cat([x, torch.stack(digits, dim=-1).to(x.dtype)], dim=-1)


def carried(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (M, D), their places and their numbers (M,), as `carrying` put them together."""
    digits = x[:, -DIGITS:].long()
    place, number = (digits[:, ::2] * BASE + digits[:, 1::2]).unbind(-1)
    return x[:, :-DIGITS].contiguous(), place, number


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
    """(3, S) positions once tokens are known. column, place, number (M,): where each stands now, and of it.

    The same twice as once, so that a chunk may be computed again.
    """
    position = position.clone()
    column, place, number = (value.to(position.device) for value in (column, place, number))
    position[0, column] = position[1, column] - number + place
    return position
