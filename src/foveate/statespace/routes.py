"""Local-to-single scans: how words and tokens are laid out as sequences, and where they are read again.

Letters: B rows, T words, N tokens, G directions, L steps, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from foveate.core.ops import neighbours, pick

SCANS = {"add": [10], "pair": [9, 1], "window": [1] * 9}  # vectors summed in each step of a token
DIRECTIONS = {"forward": 1, "both": 2}


@dataclass(frozen=True)
class Route:
    """A way through the words and tokens of some images, once or from both ends.

    Words stand first in every direction. A step is a mean of tokens, or one, or their sum.

    member, among  what makes each step, by row of (B·(T+N)), and of how many it is a mean; 0 in padding
    start          (B·L·G,) where each step's members begin
    real           (B, L) steps that are no padding
    place          (B·(T+N), G) the steps of each direction at which a word or token is read, by row of
                   (B·L·G)
    """

    member: Tensor
    among: Tensor
    start: Tensor
    real: Tensor
    place: Tensor

    @classmethod
    def of(cls, cell: Tensor, valid: Tensor, said: Tensor, scan: str, directions: int) -> Route:
        """cell (B, N, 3) of the grid; valid (B, N), tokens first; said (B, T), words last."""
        (B, N), T, G, sizes = valid.shape, said.shape[1], directions, SCANS[scan]
        member, among = _members(neighbours(cell, valid), scan)
        token = torch.arange(N, device=valid.device).expand(B, N)
        back = (valid.sum(1, keepdim=True) - 1 - token).where(valid, token)
        slot = torch.stack([token, back][:G], dim=2)  # (B, N, G), and the other way round
        member = torch.stack([pick(member, order) + T for order in slot.unbind(2)], dim=2)
        among = among.to(valid.device) * valid[:, :, None, None].expand(B, N, G, 1)
        word = torch.arange(T, device=valid.device)[:, None].expand(B, T, G)
        row = torch.arange(B, device=valid.device)[:, None]
        size = torch.tensor([1] * T * G + [n for n in sizes for _ in range(G)] * N)
        size = size.to(valid.device).expand(B, -1).flatten()
        L = T + N * len(sizes)
        step = torch.cat([word, T + (slot + 1) * len(sizes) - 1], dim=1)
        direction = torch.arange(G, device=valid.device)
        members = torch.cat([word.flatten(1), _in_steps(member, sizes)], 1) + row * (T + N)
        counts = torch.cat([said.repeat_interleave(G, 1), _in_steps(among, sizes)], 1)
        return cls(
            member=members.flatten(),
            among=counts.flatten(),
            start=size.cumsum(0) - size,
            real=torch.cat([said, valid.repeat_interleave(len(sizes), dim=1)], dim=1),
            place=(((row * L)[..., None] + step) * G + direction).flatten(0, 1),
        )

    def lay(self, value: Tensor) -> Tensor:
        """What the words and tokens hold, as sequences. value (B, T + N, C) → (B, L, G, C)."""
        if not value.shape[-1]:
            return value.new_empty(*self.real.shape, 1, 0)
        weight = (1 / self.among.to(value.dtype)).masked_fill(self.among == 0, 0)
        laid = functional.embedding_bag(
            self.member, value.flatten(0, 1), self.start, mode="sum", per_sample_weights=weight
        )
        return laid.reshape(*self.real.shape, self.place.shape[1], value.shape[-1])

    def read(self, value: Tensor) -> Tensor:
        """What the words' and tokens' own steps hold, both directions. (B, L, G, C) → (B, T + N, C)."""
        found = functional.embedding_bag(self.place, value.flatten(0, 2), mode="sum")
        return found.reshape(len(value), len(found) // max(len(value), 1), -1)


def _members(around: Tensor, scan: str) -> tuple[Tensor, Tensor]:
    """What a token's steps are sums of: tokens (B, N, E), and how many make one mean (E,)."""
    if scan == "window":
        return around[..., [0, 1, 2, 3, 5, 6, 7, 8, 4]], torch.ones(9, dtype=torch.long)
    itself = torch.arange(around.shape[1], device=around.device)[:, None].expand_as(around[..., :1])
    return torch.cat([around, itself], dim=-1), torch.tensor([9] * 9 + [1])


def _in_steps(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """Step by step, and in each the directions side by side. value (B, N, G, E) → (B, N·G·E)."""
    return torch.cat([step.flatten(2) for step in value.split(sizes, dim=-1)], dim=2).flatten(1)
