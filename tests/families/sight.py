"""What a row of patches shows: where each patch stands, and of which tokens of the tower it is made.

Written down by hand, family by family; it shares no code with the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

Cell = tuple[int, int, int]


@dataclass(frozen=True)
class Sight:
    """One image or video as compressors see it.

    cells     view, row and column of each patch; newlines are none
    weights   (patches, tokens)  each patch as a mean of the tower's tokens for it, class tokens too
    together  by how many tokens a patch stands for where windows of tokens merge: attention is summed
    """

    cells: list[Cell]
    weights: Tensor
    together: int = 1

    def split(self, n: int) -> list[Sight]:
        """Views of the same size that are a row each."""
        if n == 1:
            return [self]
        P, T = (size // n for size in self.weights.shape)
        parts = [slice(k * P, (k + 1) * P) for k in range(n)]
        return [
            Sight(
                [(0, r, c) for _, r, c in self.cells[part]],
                self.weights[part, k * T : (k + 1) * T],
                self.together,
            )
            for k, part in enumerate(parts)
        ]


def cells(views: int, rows: int, columns: int, first: int = 0) -> list[Cell]:
    """Views one behind the other, each in reading order."""
    return list(product(range(first, first + views), range(rows), range(columns)))


def picks(tokens: list[int], total: int) -> Tensor:
    """Each patch is one token."""
    return torch.eye(total)[tokens]


def means(windows: list[list[int]], total: int) -> Tensor:
    """Each patch is the mean of some tokens."""
    return torch.stack([picks(window, total).mean(0) for window in windows])


def squares(views: int, rows: int, columns: int, side: int, skip: int = 0) -> Tensor:
    """Tokens in reading order, `skip` in front of each view, merged in windows of side × side."""
    width, size = columns * side, skip + rows * columns * side**2
    windows = [
        [
            view * size + skip + (row * side + y) * width + column * side + x
            for y, x in product(range(side), range(side))
        ]
        for view, row, column in cells(views, rows, columns)
    ]
    return means(windows, views * size)


def shrunk(n: int, to: int) -> Tensor:
    """(to, n) bilinear interpolation of one side, from pixel centre to pixel centre."""
    weights = torch.zeros(to, n)
    for i in range(to):
        x = max((i + 0.5) * n / to - 0.5, 0.0)
        low = int(x)
        weights[i, low] += 1 - (x - low)
        weights[i, min(low + 1, n - 1)] += x - low
    return weights
