"""What the tests of several methods count out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate import VisualTokens


def looked_at(score: Tensor, n: int, among: list[int] | None = None) -> list[int]:
    """The n highest of a row (N,), of equals the earlier; in order."""
    among = range(len(score)) if among is None else among
    return sorted(sorted(among, key=lambda i: (-float(score[i]), i))[:n])


def kept(out: VisualTokens, row: int = 0) -> list[int]:
    """The patches of an image that are a token, or part of one."""
    return (out.owner[row] >= 0).nonzero()[:, 0].tolist()


def ragged(lengths: list[int], D: int = 5, seed: int = 0) -> tuple[VisualTokens, Tensor]:
    """Tokens of images of these lengths, and an attention (B, N)."""
    draw = torch.Generator().manual_seed(seed)
    B, P = len(lengths), max(lengths)
    valid = torch.arange(P) < torch.tensor(lengths)[:, None]
    x = torch.randn(B, P, D, generator=draw) * valid[..., None]
    return VisualTokens.of(x, valid), torch.rand(B, P, generator=draw) * valid
