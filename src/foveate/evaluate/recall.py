"""Whether what is asked about is still to be seen, where a task knows the place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foveate.patchqa import patches_of


def recall(asked: Sequence[np.ndarray], carried: Sequence[tuple[Tensor, Tensor]]) -> float | None:
    """What an asked patch has left of a token, in the mean: 0 dropped, 1 its own, 1/k shared by k.

    asked: of each image, (height, width), 0 where nothing is asked about; carried: who carries its patches
    (P,), and where they stand (P, 3). None where nothing is asked about.
    """
    shares: list[Tensor] = []
    for regions, (owner, grid) in zip(asked, carried, strict=False):
        size = torch.bincount(owner[owner >= 0], minlength=len(owner))
        share = torch.where(owner >= 0, 1 / size[owner.clamp(min=0)].clamp(min=1), 0.0)
        shares.append(share[holding(regions, grid)])
    every = torch.cat(shares) if shares else torch.zeros(0)
    return float(every.mean()) if len(every) else None


def holding(regions: np.ndarray, grid: Tensor) -> Tensor:
    """(P,) bool: the patches, of any view, that hold what is asked. regions (height, width), grid (P, 3)."""
    found = torch.zeros(len(grid), dtype=torch.bool, device=grid.device)
    for view in grid[:, 0].unique().tolist():
        if view >= 0:
            here = grid[:, 0] == view
            rows, columns = (grid[here, 1:] - grid[here, 1:].amin(0)).T.cpu()
            side = len(regions) // (int(rows.max()) + 1)
            held = torch.from_numpy(patches_of(regions, side))
            found[here] = held[rows, columns].to(found.device)
    return found
