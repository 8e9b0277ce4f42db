"""The pictures inside the pictures: textures, glyphs, digits and shape masks, by split."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .words import PHOTOS, SHAPES, SIZES

FILE = Path(__file__).with_name("assets.npz")


@dataclass(frozen=True)
class Assets:
    """What one split may paint with; masks run from 0 (nothing) to 128 (opaque)."""

    textures: dict[str, tuple[np.ndarray, ...]]  # (height, width, 3) int16 around zero
    shapes: dict[tuple[str, str], tuple[np.ndarray, ...]]  # (shape, size) -> odd squares
    glyphs: dict[str, np.ndarray]  # text -> (styles, characters, height, width)
    digits: np.ndarray  # (n, 18, 18)
    digit_values: np.ndarray  # (n,)


@cache
def load(split: str) -> Assets:
    """Read the assets of one split from the package's own file."""
    with np.load(FILE) as file:
        textures = {name: _versions(file, f"{split}/texture/{name}") for name in PHOTOS}
        shapes = {(a, b): _versions(file, f"shape/{a}/{b}") for a in SHAPES for b in SIZES}
        return Assets(
            textures={name: tuple(map(_three_channels, tiles)) for name, tiles in textures.items()},
            shapes=shapes,
            glyphs={
                text: file[f"{split}/glyphs/{text}"].astype(np.int32) for text in ("normal", "tiny")
            },
            digits=file[f"{split}/digits"].astype(np.int32) * 128 // 15,
            digit_values=file[f"{split}/digit_values"],
        )


def _versions(file: np.lib.npyio.NpzFile, name: str) -> tuple[np.ndarray, ...]:
    count = sum(key.startswith(f"{name}/") for key in file.files)
    return tuple(file[f"{name}/{version}"].astype(np.int32) for version in range(count))


def _three_channels(tile: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(tile, (*tile.shape[:2], 3)))
