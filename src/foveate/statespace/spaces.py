"""Selective state spaces as layers: what to remember of a sequence is chosen at every step.

Letters: B rows, L steps, G directions that lie side by side, each with weights of its own, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.statespace.routes import Route
from foveate.statespace.scan import scan

KERNEL = 4  # steps that a convolution sees, as in Mamba
HEAD = 64  # channels that share a decay, as in Mamba-2


class SSD(nn.Module):
    """Mamba-2's state space: one decay a head. Dao and Gu 2024, arXiv:2405.21060. G directions."""

    def __init__(self, inner: int, states: int, directions: int):
        super().__init__()
        head = math.gcd(inner, HEAD)
        self.sizes = states, inner // head
        self.more = 2 * states + inner // head  # channels it wants besides: B, C and steps
        heads = directions * (inner // head)
        self.conv = Convolution(directions, inner)
        self.conv_more = Convolution(directions, 2 * states)
        self.step = nn.Parameter(_steps(heads).unflatten(0, (directions, -1)))
        self.log_decay = nn.Parameter(_decays(heads))
        self.skip = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor, more: Tensor, real: Tensor) -> Tensor:
        """x (B, L, G, inner), more (B, L, G, more), real (B, L) → (B, L, G, inner)."""
        states, heads = self.sizes
        B, C = self.conv_more(more[..., :-heads]).split(states, dim=-1)
        delta = functional.softplus(exact(more[..., -heads:]) + exact(self.step))
        delta = (delta * real[..., None, None]).flatten(2)
        heads_of_x = self.conv(x).flatten(2).unflatten(-1, (delta.shape[-1], -1))
        decay = -exact(self.log_decay).exp()
        return scan(heads_of_x, delta, decay, B, C, self.skip, kind="ssd").reshape(x.shape)


class S6(nn.Module):
    """Mamba's state space: a decay for each channel and state. Gu and Dao 2023, arXiv:2312.00752."""

    more = 0

    def __init__(self, inner: int, states: int, directions: int):
        super().__init__()
        rank = math.ceil(inner / 32)  # of the steps, as in Mamba: a sixteenth of half of inner
        self.sizes = rank, states, states
        self.conv = Convolution(directions, inner)
        self.select = nn.Parameter(_uniform((directions, inner, rank + 2 * states), inner))
        self.widen = nn.Parameter(_uniform((directions, rank, inner), rank))
        self.step = nn.Parameter(_steps(directions * inner).unflatten(0, (directions, -1)))
        decay = torch.arange(1.0, states + 1).log().repeat(directions * inner, 1)
        self.log_decay, self.skip = nn.Parameter(decay), nn.Parameter(torch.ones(len(decay)))

    def forward(self, x: Tensor, more: Tensor, real: Tensor) -> Tensor:
        """x (B, L, G, inner), more (B, L, G, 0), real (B, L) → (B, L, G, inner)."""
        x = self.conv(x)
        chosen = torch.einsum("blgc,gcr->blgr", x, self.select)
        step, B, C = chosen.split(self.sizes, dim=-1)
        step = torch.einsum("blgr,grc->blgc", step, self.widen)
        delta = functional.softplus(exact(step) + exact(self.step)) * real[..., None, None]
        decay = -exact(self.log_decay).exp()
        y = scan(x.flatten(2), delta.flatten(2), decay, B, C, self.skip, kind="mamba1")
        return y.reshape(x.shape)


class Block(nn.Module):
    """A selective state space over words and tokens, gated, beside which they go unchanged."""

    def __init__(self, width: int, inner: int, operator: str, states: int, directions: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.space = (SSD if operator == "ssd" else S6)(inner, states, directions)
        self.enter = nn.Linear(width, inner + self.space.more, bias=False)
        self.gate = nn.Linear(width, inner, bias=False)
        # As in Mamba-2: what is gated is small, and would learn slowly.
        self.level = nn.RMSNorm(inner, eps=1e-5)
        self.leave = nn.Linear(inner, width, bias=False)

    def forward(self, z: Tensor, route: Route) -> Tensor:
        """z (B, T + N, width)."""
        n = self.norm(z)
        x, more = self.enter(n).split([self.gate.out_features, self.space.more], dim=-1)
        y = route.read(self.space(route.lay(x), route.lay(more), route.real))
        gated = y * functional.silu(self.gate(n))
        return z + self.leave(self.level(gated.to(self.level.weight.dtype)))


class Convolution(nn.Module):
    """A causal convolution over the steps, channel by channel, and SiLU."""

    def __init__(self, directions: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(_uniform((KERNEL, directions, channels), KERNEL))
        self.bias = nn.Parameter(torch.zeros(directions, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, G, C)."""
        *earlier, now = self.weight.to(x.dtype)  # under autocast too: the scan follows x
        y = torch.addcmul(self.bias.to(x.dtype), x, now)
        for back, weight in enumerate(reversed(earlier), start=1):
            y[:, back:].addcmul_(x[:, :-back], weight)  # in place: the sequence is never copied
        return functional.silu(y)


def exact(value: Tensor) -> Tensor:
    """Steps and decays are float32 at least."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _uniform(shape: tuple[int, ...], fan_in: int) -> Tensor:
    """Weights as a linear layer of so many inputs begins with."""
    bound = fan_in**-0.5
    return nn.init.uniform_(torch.empty(shape), -bound, bound)


def _steps(n: int) -> Tensor:
    """What softplus turns into steps from 0.001 to 0.1, evenly spread in their logarithm."""
    step = torch.empty(n)
    if step.is_meta:  # no numbers, and arithmetic there loads all of torch's compiler
        return step
    step = step.uniform_(math.log(1e-3), math.log(1e-1)).exp()
    return step + (-torch.expm1(-step)).log()


def _decays(n: int) -> Tensor:
    """The logarithms of decays from 1 to 16."""
    decay = torch.empty(n)
    return decay if decay.is_meta else decay.uniform_(1, 16).log()
