"""A picture as a tree of rectangles: where to split it, so that n leaves lose least.

Letters: B images, N tokens, D width, T nodes of a tree: 2N − 1, of which N − 1 have two children.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """The rectangles of one layout: halved along the longer side, views first, down to single tokens.

    Nodes are numbered from the root (0) down, depth by depth, so parents come before their children.

    children  of each depth with splits, from the root: (which, (left, right)) node numbers, (k,) and (k, 2)
    leaf      (N,)  the node that is each token alone
    above     (H, N)  the token's node at each depth; below its own leaf, that leaf again
    tokens    (T,)  tokens below each node
    """

    children: tuple[tuple[Tensor, Tensor], ...]
    leaf: Tensor
    above: Tensor
    tokens: Tensor

    def sums(self, value: Tensor) -> Tensor:
        """Of each node, the sum over its tokens. value (B, N, …) → (B, T, …)."""
        out = value.new_zeros(value.shape[0], len(self.tokens), *value.shape[2:])
        out[:, self.leaf] = value
        for node, (left, right) in self._upward():
            out[:, node] = out[:, left] + out[:, right]
        return out

    def gains(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """What each split saves, and what each node costs: (B, T), (B, T).

        A node costs Σ w|x − mean|² over its tokens, mean their weighted mean. A split of weights V and W at
        a distance d saves V W / (V + W) · d²: sums of what is never negative, so float32 is enough.
        x (B, N, D), w (B, N) > 0.
        """
        weight, total = self.sums(w), self.sums(w[..., None] * x)
        mean = total / weight[..., None]
        gain, cost = torch.zeros_like(weight), torch.zeros_like(weight)
        for node, (left, right) in self._upward():
            apart = (mean[:, left] - mean[:, right]).square().sum(-1)
            gain[:, node] = weight[:, left] * weight[:, right] / weight[:, node] * apart
            cost[:, node] = gain[:, node] + cost[:, left] + cost[:, right]
        return gain, cost

    def priorities(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, T) how soon each node is split: never before its parent; −1 for single tokens.

        A split is worth what it saves, or what the whole node costs by the split still left in it, if that
        is more: a checkerboard saves nothing at first.
        """
        gain, cost = self.gains(x, w)
        inner = self.tokens > 1
        worth = torch.maximum(gain, cost / (self.tokens - 1).clamp(min=1))
        for node, ends in self.children:
            for child in ends.T:
                worth[:, child] = torch.minimum(worth[:, child], worth[:, node])
        return worth.masked_fill(~inner, -1.0)

    def cut(self, x: Tensor, w: Tensor, n: Tensor) -> Tensor:
        """(B, N) the node that each token ends in, when the best splits make n leaves. n (B, 1), 1 to N.

        Of equal splits that of more tokens is first; a smaller n gives a tree inside a larger's.
        """
        large = self.tokens.argsort(descending=True, stable=True)  # parents before children
        order = self.priorities(x, w)[:, large].argsort(dim=1, descending=True, stable=True)
        order = large[order]
        place = torch.arange(order.shape[1], device=x.device).expand_as(order)
        split = torch.empty_like(order).scatter(1, order, place) < n - 1
        depth = split[:, self.above].sum(1)  # split nodes of a path are its first ones
        return self.above.expand(len(x), -1, -1).gather(1, depth[:, None])[:, 0]

    def _upward(self) -> list[tuple[Tensor, Tensor]]:
        return [(node, ends.T) for node, ends in reversed(self.children)]

    def to(self, device: torch.device) -> Tree:
        """The same on a device."""
        children = tuple((node.to(device), ends.to(device)) for node, ends in self.children)
        rest = (self.leaf, self.above, self.tokens)
        return Tree(children, *(t.to(device) for t in rest))


def tree(cells: Tensor) -> Tree:
    """The tree of a layout, on its device, made once. cells (N, 3): view, row and column of each token.

    Tokens of one cell, as where a grid says nothing, are halved in order.
    """
    made = _made(tuple(cells.flatten().tolist()))
    return made if cells.device.type == "cpu" else made.to(cells.device)


@functools.lru_cache(maxsize=64)
def _made(cells: tuple[int, ...]) -> Tree:
    at = torch.tensor(cells).view(-1, 3)
    at = torch.cat([at, torch.arange(len(at))[:, None]], 1)
    now = torch.zeros(len(at), dtype=torch.long)  # the node of each token at this depth
    tokens, above, children = [torch.tensor([len(at)])], [now], []
    nodes = 1
    while len(inner := torch.bincount(now, minlength=nodes).gt(1).nonzero()[:, 0]):
        alive = torch.isin(now, inner)
        rank = torch.searchsorted(inner, now[alive])
        right = _halved(at[alive], rank, len(inner))
        ends = nodes + torch.arange(2 * len(inner)).view(-1, 2)
        now = now.masked_scatter(alive, ends[rank, right])
        nodes += 2 * len(inner)
        children.append((inner, ends))
        above.append(now)
        tokens.append(torch.bincount(now, minlength=nodes)[-2 * len(inner) :])
    return Tree(tuple(children), now, torch.stack(above), torch.cat(tokens))


def _halved(at: Tensor, group: Tensor, groups: int) -> Tensor:
    """Which half of its rectangle each token is in, 0 or 1: the longer side is halved, views first.

    at (k, 4) view, row, column and place of each; group (k,) its rectangle's number.
    """
    index, blank = group[:, None].expand_as(at), at.new_zeros(groups, 4)
    low = blank.scatter_reduce(0, index, at, "amin", include_self=False)
    high = blank.scatter_reduce(0, index, at, "amax", include_self=False)
    view, rows, columns, _ = (high - low).unbind(1)
    axis = torch.where(rows >= columns, 1, 2).where(rows.maximum(columns) > 0, 3)
    axis = axis.where(view == 0, 0)[:, None]
    middle = (low + (high - low + 1) // 2).gather(1, axis)[group]
    return (at.gather(1, axis[group]) >= middle)[:, 0].long()
