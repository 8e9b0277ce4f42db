"""Maps of the picture: where kept tokens lie, and where the model looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.hosts.trace import Step

MOST = 24  # rows and columns of a map


def shape_of(step: Step) -> tuple[int, int]:
    """Rows and columns for maps of this model: those of its first image, or as many as a map has."""
    if step.grid is None:
        return MOST, MOST
    grid = step.grid[0].cpu().numpy()
    return tuple(min(MOST, int(axis.max() + 1)) for axis in grid[(grid >= 0).all(1)][:, 1:].T)


def density(owner: np.ndarray) -> np.ndarray:
    """(P,) the share of a token that each patch has: 1 alone, 1/4 of one of four patches, 0 dropped.

    owner (P,) the token that carries each patch; negative without one.
    """
    size = np.bincount(owner[owner >= 0], minlength=1)[owner.clip(0)]
    return np.where(owner >= 0, 1 / size.clip(1), 0.0)


def mapped(values: np.ndarray, grid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """One image's values (P,) as a map of this shape; the mean over its views, nan where there is no patch.

    grid (P, 3) view, row and column of each patch, -1 for none. A view of another size is sampled.
    """
    placed, views = (grid >= 0).all(1), []
    for view in np.unique(grid[placed, 0]):
        here = placed & (grid[:, 0] == view)
        cells = grid[here, 1:] - grid[here, 1:].min(0)  # joined tiles begin behind a border
        whole = np.full(cells.max(0) + 1, np.nan)
        whole[tuple(cells.T)] = values[here]
        at = [
            ((np.arange(n) + 0.5) * had / n).astype(int)
            for n, had in zip(shape, whole.shape, strict=True)
        ]
        views.append(whole[np.ix_(*at)])
    return mean(views, shape)


def mean(
    maps: Sequence[np.ndarray], shape: tuple[int, int], weights: Sequence[float] | None = None
) -> np.ndarray:
    """The mean of maps, cell by cell, of those that have a value there; nan where none has."""
    weight = np.ones(len(maps)) if weights is None else np.array(weights, float)
    some = np.array(maps, float).reshape(-1, *shape)
    there = weight[:, None, None] * ~np.isnan(some)
    total, many = (there * np.nan_to_num(some)).sum(0), there.sum(0)
    return np.divide(total, many, out=np.full(shape, np.nan), where=many > 0)


def written(drawn: np.ndarray) -> list[list[float | None]]:
    """A map as JSON has it: five digits, None where there is nothing."""
    return [[None if np.isnan(one) else float(f"{one:.5g}") for one in row] for row in drawn]


def kept(steps: list[Step], shape: tuple[int, int]) -> list[np.ndarray]:
    """A map for each image of a prefill: the share of a token that each cell has at its end."""
    owners, grids = steps[-1].owner.cpu().numpy(), _grids(steps)
    return [mapped(density(one), grid, shape) for one, grid in zip(owners, grids, strict=True)]


def looked(steps: list[Step], shape: tuple[int, int]) -> list[np.ndarray]:
    """A map for each image of a prefill: what the last row of its prompt gives each cell, mean over steps."""
    scores = np.mean([step.scores.float().cpu().numpy() for step in steps], 0)
    return [mapped(one, grid, shape) for one, grid in zip(scores, _grids(steps), strict=True)]


def _grids(steps: list[Step]) -> np.ndarray:
    """(I, P, 3); of a model that tells none, no patch has a place."""
    first = steps[0]
    return np.full((*first.owner.shape, 3), -1) if first.grid is None else first.grid.cpu().numpy()
