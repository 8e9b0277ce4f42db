"""Where to look: the pixels, and the patches, that hold what a question asks about."""

from collections.abc import Sequence

import numpy as np

from .scene import SIGN_REGION, Picture

LEAST = 0.25  # of a patch's pixels


def asked_regions(picture: Picture, about: Sequence[int]) -> np.ndarray:
    """(size, size) uint8: the number of each region that is asked about, 0 elsewhere.

    about: as in `Question`. A sign is one region, its plate and its characters.
    """
    regions = np.minimum(picture.regions, SIGN_REGION)
    return np.where(np.isin(regions, about), regions, 0).astype(np.uint8)


def patches_of(regions: np.ndarray, side: int = 8, least: float = LEAST) -> np.ndarray:
    """(rows, columns) bool: the patches of side × side pixels that hold a region, 0 being none.

    A patch belongs where one region covers at least this share of its pixels. So that even a small or
    thin region has a patch, the one that holds the most of it belongs as well, the first of equals.
    regions (height, width). Raises ValueError for sides that do not divide them.
    """
    height, width = regions.shape
    if side < 1 or height % side or width % side:
        raise ValueError(f"side={side}: want a divisor of {height} and {width} pixels")
    found = np.zeros((height // side, width // side), dtype=bool)
    for number in np.setdiff1d(regions, [0]):
        cells = (regions == number).reshape(height // side, side, width // side, side)
        covered = cells.mean(axis=(1, 3))
        found |= covered >= least
        found.flat[covered.argmax()] = True
    return found
