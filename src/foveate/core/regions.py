"""Regions of an image's grid, and in each the maxima of windows as large as is chosen for it.

Letters: B images, P patches, N tokens, R regions there may be, as many in every row, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveate.core.ops import pick, windows
from foveate.core.tokens import VisualTokens


@dataclass(frozen=True)
class Regions:
    """How an image's tokens fall into regions of its grid.

    cell    (B, N, 3)  view, row and column of each token
    region  (B, N)     which it is in; R for none: padding, what stands apart, or outside the grid
    there   (B, R)     regions that have a token; others are as if they were not
    first   (regions,) the first token of each that is there
    """

    cell: Tensor
    region: Tensor
    there: Tensor
    first: Tensor

    @classmethod
    def of(cls, tokens: VisualTokens, grid: Tensor, apart: Tensor, side: int) -> Regions:
        """Regions of `side` × `side` cells; a token stands where its first patch does.

        grid (B, P, 3); apart (B, N) tokens that are in no region.
        """
        cell = tokens.of_first(_from_corners(grid))
        mapped = tokens.valid & ~apart & (cell[..., 1] >= 0)
        region, R = windows(cell, side, mapped)
        region = region.masked_fill(~mapped, R)
        B, N = region.shape
        place = torch.arange(N, device=region.device).expand(B, N)
        first = place.new_full((B, R + 1), N).scatter_reduce(1, region, place, "amin")[:, :R]
        return cls(cell, region, first < N, first[first < N])

    @property
    def mapped(self) -> Tensor:
        """(B, N) which tokens are in a region."""
        return self.region < self.there.shape[1]

    def of_tokens(self, value: Tensor, outside: float) -> Tensor:
        """(B, N) what holds of each token's region. value (regions,)."""
        table = value.new_full((len(self.there), self.there.shape[1] + 1), outside)
        return table.masked_scatter(pad(self.there, (0, 1)), value).gather(1, self.region)

    def means_and_maxima(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R + 1, D) each: of the tokens of every region, and last of those in none. x (B, N, D)."""
        index = self.region[..., None].expand_as(x)
        bins = x.new_zeros(len(x), self.there.shape[1] + 1, x.shape[-1])
        count = bins[..., 0].scatter_add(1, self.region, torch.ones_like(x[..., 0]))
        mean = bins.scatter_add(1, index, x) / count.clamp(min=1)[..., None]
        return mean, bins.scatter_reduce(1, index, x, "amax", include_self=False)

    def pooled(self, tokens: VisualTokens, side: Tensor) -> VisualTokens:
        """One token of every window: their maximum. side (B, N) of the window that each token is in."""
        if bool((side == 1).all()):
            return tokens
        into, M = self._windows(side)
        return tokens.merge(into, M, _maximum(tokens.x, into, M))

    def maxima(self, x: Tensor, side: Tensor) -> Tensor:
        """The maximum of the window that each token is in. x (B, N, D), side (B, N) → (B, N, D)."""
        into, M = self._windows(side)
        return pick(_maximum(x, into, M), into)

    def _windows(self, side: Tensor) -> tuple[Tensor, int]:
        """(B, N) the window of each token, and how many there may be; tokens of no region are alone."""
        corner = self.cell[..., 1:] // side[..., None] * side[..., None]
        window, M = windows(torch.cat([self.cell[..., :1], corner], dim=-1), 1, self.mapped)
        N = window.shape[1]
        alone = M + torch.arange(N, device=window.device)
        return torch.where(self.mapped, window, alone), M + N


def _from_corners(grid: Tensor) -> Tensor:
    """(B, P, 3) the grid, rows and columns counted from the first there is in a view; outside stays -1.

    Joined tiles count from the first tile's corner, which an image of this size may not reach.
    """
    B, P, _ = grid.shape
    inside = grid[..., 1:] >= 0
    view = grid[..., :1].clamp(min=0).expand(B, P, 2)
    far = int(grid.max()) + 1 if grid.numel() else 0
    first = grid.new_full((B, far, 2), far)
    first = first.scatter_reduce(1, view, torch.where(inside, grid[..., 1:], far), "amin")
    cell = torch.where(inside, grid[..., 1:] - first.gather(1, view), -1)
    return torch.cat([grid[..., :1], cell], dim=-1)


def _maximum(x: Tensor, into: Tensor, M: int) -> Tensor:
    """x (B, N, D) → (B, M, D), 0 where nothing is sent."""
    most = x.new_zeros(len(x), M, x.shape[-1])
    return most.scatter_reduce(1, into[..., None].expand_as(x), x, "amax", include_self=False)
