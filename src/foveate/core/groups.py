"""Budgets of groups of tokens, such as windows or tiles: how many each gets, and which those are.

Letters: B images, N tokens, G groups there may be, as many in every row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.ops import top


def sizes(group: Tensor, G: int, valid: Tensor) -> Tensor:
    """(B, G) how many tokens each group has. group (B, N) in [0, G), valid (B, N)."""
    return summed(torch.ones_like(group), group, G, valid)


def summed(value: Tensor, group: Tensor, G: int, valid: Tensor) -> Tensor:
    """(B, G) the sum over each group. value, group, valid (B, N)."""
    empty = value.new_zeros(len(value), G)
    return empty.scatter_add(1, group.masked_fill(~valid, 0), value.masked_fill(~valid, 0))


def top_of_each(score: Tensor, group: Tensor, n: Tensor, valid: Tensor) -> Tensor:
    """(B, N) True at the n highest scores of each group; equal scores go to the earlier token.

    score, group, valid (B, N); n (B, G).
    """
    G = n.shape[1]
    group = group.masked_fill(~valid, G)  # behind all others
    order = score.float().argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))
    group = group.gather(1, order)
    n = torch.cat([n, n.new_zeros(len(n), 1)], dim=1).gather(1, group)
    place = torch.arange(group.shape[1], device=group.device).expand_as(group)
    first = torch.searchsorted(group.contiguous(), group.contiguous())
    return torch.zeros_like(valid).scatter(1, order, place - first < n)


def apportioned(n: Tensor, weight: Tensor, room: Tensor) -> Tensor:
    """(B, G) n tokens shared out by weight: rounded down, then one each to the heaviest groups.

    What a group has no room for goes to the others in the same way. n (B, 1); weight, room (B, G).
    """
    given = torch.zeros_like(room)
    while True:
        left = (n - given.sum(1, keepdim=True)).minimum((room - given).sum(1, keepdim=True))
        if not left.any():
            return given
        free = given < room
        share = weight.double().masked_fill(~free, 0)
        share = share.where(share.sum(1, keepdim=True) > 0, free.double())
        more = (left * share / share.sum(1, keepdim=True).clamp(min=1e-300)).floor().long()
        more = more + top(share, left - more.sum(1, keepdim=True), free)
        given = (given + more).minimum(room)
