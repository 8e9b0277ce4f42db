"""One panel: pixels of a view under what a step left of it, or under a map. Pixels are (H, W, 3), 0 … 255."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageOps

from foveate.chat.pictures import flat
from foveate.draw.views import Shown, View

PALE = 238.0
GREY = np.array([0.299, 0.587, 0.114])
GOLDEN = 0.61803398875
LARGEST = 64  # patches per token from which on colours of sizes no longer change


def kept(pixels: np.ndarray, view: View, cell: int) -> np.ndarray:
    """What stays is untouched, what goes fades, what shares a token shares a tint. A patch is cell wide."""
    owner = view.owner
    out = np.where(_cells(owner >= 0, cell)[..., None], pixels, _faded(pixels))
    tint = np.stack([_tint(token) for token in range(owner.max(initial=0) + 1)])[owner.clip(0)]
    blend = 0.68 * out + 0.32 * _cells(tint, cell)
    out = np.where(_cells(view.merged, cell)[..., None], blend, out)
    _outline(out, view, tint * 0.72, cell)
    return out


def sized(pixels: np.ndarray, view: View, cell: int) -> np.ndarray:
    """The image in grey under a map of how many patches each token carries; faded where dropped."""
    ink = np.stack([colour(n) for n in range(view.size.max(initial=1) + 1)])[view.size]
    mapped = 0.42 * (pixels @ GREY)[..., None] + 0.58 * _cells(ink, cell)
    out = np.where(_cells(view.size > 0, cell)[..., None], mapped, _faded(pixels))
    _outline(out, view, ink * 0.6, cell)
    return out


def heated(pixels: np.ndarray, view: View, cell: int) -> np.ndarray:
    """The image in grey under a map of the ranks, dark purple to pale yellow; faded where unknown."""
    ink = heat(np.nan_to_num(view.rank))
    mapped = 0.25 * (pixels @ GREY)[..., None] + 0.75 * _cells(ink, cell)
    return np.where(_cells(np.isnan(view.rank), cell)[..., None], _faded(pixels), mapped)


def heat(rank: np.ndarray) -> np.ndarray:
    """The colours (…, 3) of ranks (…), 0 … 1: dark purple to pale yellow."""
    import matplotlib

    return matplotlib.colormaps["magma"](rank)[..., :3] * 255


def colour(size: int) -> np.ndarray:
    """The colour of a token of so many patches, the same in every picture: yellow alone, 4 green, 16 blue."""
    import matplotlib

    part = math.log2(min(max(size, 1), LARGEST)) / math.log2(LARGEST)
    return np.array(matplotlib.colormaps["viridis"](1 - part)[:3]) * 255


def fitted(shown: Shown, v: int, grid: tuple[int, int], cell: int) -> np.ndarray:
    """What the model saw of view v, at whole cells: (rows·cell, columns·cell, 3)."""
    picture = flat(shown if isinstance(shown, Image.Image) else shown[v])
    fit = ImageOps.fit if loses(shown, grid) else Image.Image.resize
    size = (grid[1] * cell, grid[0] * cell)
    return np.asarray(fit(picture, size, Image.Resampling.BICUBIC), dtype=np.float64)


def loses(shown: Shown, grid: tuple[int, int]) -> bool:
    """Whether a patch or more of a lone picture is cut off: one that is no square, on a square grid."""
    if not isinstance(shown, Image.Image) or grid[0] != grid[1]:
        return False
    return max(shown.size) / min(shown.size) > 1 + 1 / grid[0]


def _outline(out: np.ndarray, view: View, ink: np.ndarray, cell: int) -> None:
    """Lines where tokens meet: white between single patches, in a token's own ink around merged ones."""
    single = -3 - np.arange(view.owner.size).reshape(view.owner.shape)
    token = _cells(np.where(view.merged, view.owner, single), cell)
    merged, thick = _cells(view.merged, cell), max(cell // 12, 1)
    white = np.zeros_like(merged)
    white[1:] |= token[1:] != token[:-1]
    white[:, 1:] |= token[:, 1:] != token[:, :-1]
    out[white & ~merged] = 255
    padded = np.pad(token, thick, constant_values=-2)
    shifts = [(by, axis) for by in (-thick, thick) for axis in (0, 1)]
    meets = np.any([np.roll(padded, by, axis) != padded for by, axis in shifts], axis=0)
    border = merged & meets[thick:-thick, thick:-thick]
    out[border] = _cells(ink, cell)[border]


def _faded(pixels: np.ndarray) -> np.ndarray:
    return (0.22 * (pixels @ GREY) + 0.78 * PALE)[..., None]


def _cells(value: np.ndarray, cell: int) -> np.ndarray:
    """Each entry of a (rows, columns, …) array as a square of pixels."""
    return value.repeat(cell, 0).repeat(cell, 1)


def _tint(token: int) -> tuple[float, ...]:
    """A colour of its own for each token; neighbours in order lie far apart on the colour circle."""
    return tuple(255 * c for c in colorsys.hls_to_rgb(token * GOLDEN % 1, 0.55, 0.75))
