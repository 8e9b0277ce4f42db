"""Warm starts: a fresh MLP, Linear → GELU → Linear, begins as something known and may become more.

Some of the hidden units compute what is known; the others stay as they are, and what reads them begins
at zero, so that at first nobody hears them. A linear map passes a GELU whole as GELU(x) − GELU(−x) = x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def as_identity(mlp: nn.Sequential, width: int) -> None:
    """Begin as the identity on the first `width` channels. Raises ValueError as `as_mean` does."""
    one = torch.eye(width).to(mlp[0].weight)
    first = one.new_zeros(2 * width, mlp[0].in_features)
    first[:, :width] = torch.cat([one, -one])
    _begin(mlp, first, one.new_zeros(2 * width), torch.cat([one, -one], 1), one.new_zeros(width))


@torch.no_grad()
def as_mean(mlp: nn.Sequential, projector: nn.Module, places: int) -> None:
    """Begin as the projector on the mean of `places` tokens, whose channels lie (channel, place).

    The projector is one linear layer, or two with a GELU between. Raises ValueError for others and where
    the hidden units are too few.
    """
    width = mlp[0].in_features // places
    linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
    if len(linear) not in (1, 2) or linear[0].in_features != width:
        shapes = ", ".join(f"{m.in_features} → {m.out_features}" for m in linear) or "none"
        raise ValueError(
            f"no warm start: want a projector of one or two linear layers from {width} channels, this "
            f"one has {shapes}"
        )
    first, out = linear[0].weight, linear[-1]
    one = torch.eye(len(out.weight)).to(first)
    if len(linear) == 1:
        first, bias, second = torch.cat([first, -first]), None, torch.cat([one, -one], 1)
    else:
        bias, second = linear[0].bias, out.weight
    zeros = first.new_zeros
    _begin(
        mlp,
        first.repeat_interleave(places, dim=1) / places,
        zeros(len(first)) if bias is None else bias,
        second,
        zeros(len(one)) if out.bias is None else out.bias,
    )
    x = torch.randn(1, 8, width, generator=torch.Generator().manual_seed(0)).to(first)
    want, got = projector(x), mlp(x.repeat_interleave(places, dim=-1))
    if (got - want).abs().max() > 0.02 * want.abs().max():  # half precision is that coarse
        raise ValueError(
            "no warm start: the projector is no linear layer, and no two with a GELU between them"
        )


def _begin(mlp: nn.Sequential, first: Tensor, bias: Tensor, second: Tensor, last: Tensor) -> None:
    units, (into, _, out, *more) = len(first), mlp
    if more:
        raise ValueError("no warm start: behind a final activation nothing is as it was")
    if into.out_features < units:
        raise ValueError(f"no warm start: want hidden >= {units}, got {into.out_features}")
    into.weight[:units], into.bias[:units] = first, bias
    out.weight.zero_()
    out.weight[:, :units], out.bias[:] = second, last
