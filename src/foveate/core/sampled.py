"""Budgets drawn in training, anew for each image and step: one checkpoint then serves many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.core.ops import number


def shares(given: Sequence[float] | Any) -> tuple[float, float] | None:
    """The least and most of the shares drawn. Raises ValueError unless 0 < least <= most <= 1."""
    if given is None:
        return None
    given = given.tolist() if hasattr(given, "tolist") else given
    pair = isinstance(given, list | tuple) and len(given) == 2
    if not pair or not 0 < number("sampled", given[0]) <= number("sampled", given[1]) <= 1:
        raise ValueError(f"sampled={given!r}: want (least, most), shares in (0, 1], or None")
    return float(given[0]), float(given[1])


def budgets(
    sampled: tuple[float, float], generators: Sequence[torch.Generator], count: Tensor
) -> Tensor:
    """(B, 1) how many of `count` tokens each image gets, evenly in the logarithm. count (B, 1)."""
    low, high = map(math.log, sampled)
    drawn = [torch.rand((), generator=g).item() for g in generators]
    share = torch.tensor([math.exp(low + u * (high - low)) for u in drawn], device=count.device)
    return (share[:, None] * count).round().long().clamp(min=1).minimum(count)
