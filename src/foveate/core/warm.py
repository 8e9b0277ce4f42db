"""Warm starts: a fresh MLP, Linear → GELU → Linear, begins as something known and may become more.

Some of the hidden units compute what is known; the others stay as they are, and what reads them begins
at zero, so that at first nobody hears them. A linear map passes a GELU whole as GELU(x) − GELU(−x) = x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def as_identity(mlp: nn.Sequential, width: int) -> None:
    """Begin as the identity on the first `width` channels. Raises ValueError as `as_pooling` does."""
    one = torch.eye(width).to(mlp[0].weight)
    first = one.new_zeros(2 * width, mlp[0].in_features)
    first[:, :width] = torch.cat([one, -one])
    _begin(mlp, first, one.new_zeros(2 * width), torch.cat([one, -one], 1), one.new_zeros(width))


@torch.no_grad()
def widened(linear: nn.Linear) -> None:
    """A linear layer begins as the identity, with zeros in what channels it has more."""
    if linear.out_features < linear.in_features:
        raise ValueError(
            f"no warm start: {linear.in_features} channels do not fit into {linear.out_features}"
        )
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)


def hidden_of(projector: nn.Module) -> int:
    """The hidden units that an MLP needs to begin as this projector."""
    linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
    return linear[0].out_features if len(linear) > 1 else 2 * linear[-1].out_features


@torch.no_grad()
def as_pooling(mlp: nn.Sequential, projector: nn.Module, places: int) -> None:
    """Begin as the mean of what the projector makes of `places` tokens; channels lie (channel, place).

    The projector is one linear layer, or two with a GELU between: then every place has hidden units of
    its own. Raises ValueError for others, and where the hidden units are too few.
    """
    width = mlp[0].in_features // places
    linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
    found = linear + [m for m in projector.modules() if m not in linear and _weighted(m)]
    if found != linear or len(linear) not in (1, 2) or linear[0].in_features != width:
        raise ValueError(
            f"no warm start: want a projector of one or two linear layers from {width} channels and "
            f"nothing else that has weights, this one has {', '.join(map(str, found)) or 'none'}"
        )
    into, out = linear[0], linear[-1]
    if len(linear) == 1:
        one = torch.eye(out.out_features).to(into.weight)
        first = torch.cat([into.weight, -into.weight]).repeat_interleave(places, dim=1) / places
        bias, second = first.new_zeros(len(first)), torch.cat([one, -one], 1)
    else:
        own = torch.eye(places).to(into.weight)
        first = torch.einsum("hc,pq->phcq", into.weight, own).flatten(2).flatten(0, 1)
        bias, second = _bias(into).repeat(places), out.weight.repeat(1, places) / places
    _begin(mlp, first, bias, second, _bias(out))
    x = 3 * torch.randn(64, width, places, generator=torch.Generator().manual_seed(0)).to(first)
    want, got = projector(x.mT).mean(1), mlp(x.flatten(1))
    coarse = 0.02 if first.dtype in (torch.bfloat16, torch.float16) else 1e-3
    if not (got - want).abs().max() <= coarse * want.abs().max():
        raise ValueError(
            "no warm start: the projector is no linear layer, and no two with a GELU between them"
        )


def _weighted(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def _begin(mlp: nn.Sequential, first: Tensor, bias: Tensor, second: Tensor, last: Tensor) -> None:
    units, (into, _, out, *more) = len(first), mlp
    if more:
        raise ValueError("no warm start: behind a final activation nothing is as it was")
    if into.out_features < units:
        raise ValueError(
            f"no warm start: it takes {units} hidden units, and there are {into.out_features}; make the "
            f"method with hidden={units} (of the blocks: block_hidden)"
        )
    into.weight[:units], into.bias[:units] = first, bias
    out.weight.zero_()
    out.weight[:, :units], out.bias[:] = second, last
