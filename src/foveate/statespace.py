"""Selective state spaces as layers: what to remember of a sequence is chosen at every step.

Letters: B rows, L steps, G directions that lie side by side, each with weights of its own, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.scan import scan

KERNEL = 4  # steps that a convolution sees, as in Mamba
HEAD = 64  # channels that share a decay, as in Mamba-2


class SSD(nn.Module):
    """Mamba-2's state space: one decay a head. Dao and Gu 2024, arXiv:2405.21060. G directions."""

    def __init__(self, inner: int, states: int, directions: int):
        super().__init__()
        head = math.gcd(inner, HEAD)
        self.sizes = inner, states, states, inner // head
        self.more = 2 * states + inner // head  # channels it wants besides: B, C and steps
        heads = directions * self.sizes[3]
        self.conv = Convolution(directions, inner + 2 * states)
        self.step = nn.Parameter(_steps(heads).unflatten(0, (directions, -1)))
        self.log_decay = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(heads))

    def forward(self, laid: Tensor, real: Tensor) -> Tensor:
        """laid (B, L, G, inner + more), real (B, L) → (B, L, G, inner)."""
        inner, states, _, heads = self.sizes
        x, B, C = self.conv(laid[..., :-heads]).split([inner, states, states], dim=-1)
        delta = functional.softplus(exact(laid[..., -heads:]) + exact(self.step))
        delta = (delta * real[..., None, None]).flatten(2)
        x = x.unflatten(-1, (heads, -1)).flatten(2, 3)
        y = scan(x, delta, -exact(self.log_decay).exp(), B, C, self.skip, kind="ssd")
        return y.reshape(*laid.shape[:3], inner)


class S6(nn.Module):
    """Mamba's state space: a decay for each channel and state. Gu and Dao 2023, arXiv:2312.00752."""

    more = 0

    def __init__(self, inner: int, states: int, directions: int):
        super().__init__()
        rank = math.ceil(
            inner / 32
        )  # of the steps; inner is twice the width in Mamba, which has width/16
        self.sizes = rank, states, states
        self.conv = Convolution(directions, inner)
        self.select = nn.Parameter(_uniform((directions, inner, rank + 2 * states), inner))
        self.widen = nn.Parameter(_uniform((directions, rank, inner), rank))
        self.step = nn.Parameter(_steps(directions * inner).unflatten(0, (directions, -1)))
        decay = torch.arange(1.0, states + 1).log().repeat(directions * inner, 1)
        self.log_decay, self.skip = nn.Parameter(decay), nn.Parameter(torch.ones(len(decay)))

    def forward(self, laid: Tensor, real: Tensor) -> Tensor:
        """laid (B, L, G, inner), real (B, L) → (B, L, G, inner)."""
        x = self.conv(laid)
        chosen = torch.einsum("blgc,gcr->blgr", x, self.select)
        step, B, C = chosen.split(self.sizes, dim=-1)
        step = torch.einsum("blgr,grc->blgc", step, self.widen)
        delta = functional.softplus(exact(step) + exact(self.step)) * real[..., None, None]
        decay = -exact(self.log_decay).exp()
        y = scan(x.flatten(2), delta.flatten(2), decay, B, C, self.skip, kind="mamba1")
        return y.reshape(laid.shape)


class Convolution(nn.Module):
    """A causal convolution over the steps, channel by channel, and SiLU."""

    def __init__(self, directions: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(_uniform((KERNEL, directions, channels), KERNEL))
        self.bias = nn.Parameter(torch.zeros(directions, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, G, C)."""
        L, padded = x.shape[1], functional.pad(x, (0, 0, 0, 0, KERNEL - 1, 0))
        y = self.bias
        for i, weight in enumerate(self.weight):
            y = torch.addcmul(y, padded[:, i : i + L], weight)
        return functional.silu(y)


def exact(value: Tensor) -> Tensor:
    """Steps and decays are float32 at least."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _uniform(shape: tuple[int, ...], fan_in: int) -> Tensor:
    """Weights as a linear layer of so many inputs begins with."""
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound)


def _steps(n: int) -> Tensor:
    """What softplus turns into steps from 0.001 to 0.1, evenly spread in their logarithm."""
    step = torch.empty(n).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    return step + (-torch.expm1(-step)).log()
