"""Masks of the eight shapes in two sizes, drawn six times too large and averaged down."""

import math

import numpy as np
from PIL import Image, ImageDraw

from foveate.patchqa.words import SHAPES, SIZES

RADII = {"small": (4.2, 4.6, 5.0, 5.4), "large": (7.8, 8.5, 9.2, 9.8)}
FINE = 6


def shape_masks() -> dict[str, np.ndarray]:
    """`shape/<name>/<size>/<version>` -> (odd, odd) coverage from 0 to 128."""
    return {
        f"shape/{name}/{size}/{version}": mask(name, radius)
        for name in SHAPES
        for size in SIZES
        for version, radius in enumerate(RADII[size])
    }


def mask(name: str, radius: float) -> np.ndarray:
    """One shape, anti-aliased."""
    side = math.ceil(radius) * 2 + 3
    canvas = Image.new("L", (side * FINE, side * FINE), 0)
    draw(name, ImageDraw.Draw(canvas), side * FINE / 2, radius * FINE)
    small = canvas.resize((side, side), Image.Resampling.BOX)
    return np.round(np.asarray(small, float) * (128 / 255)).astype(np.uint8)


def draw(name: str, pen: ImageDraw.ImageDraw, c: float, r: float) -> None:
    """Draw a shape around (c, c) with about radius r."""
    if name == "circle":
        pen.ellipse([c - r, c - r, c + r, c + r], fill=255)
    elif name == "square":
        pen.rectangle([c - 0.88 * r, c - 0.88 * r, c + 0.88 * r, c + 0.88 * r], fill=255)
    elif name == "triangle":
        pen.polygon([(c, c - r), (c + 0.98 * r, c + 0.85 * r), (c - 0.98 * r, c + 0.85 * r)], 255)
    elif name == "cross":
        pen.rectangle([c - r, c - 0.34 * r, c + r, c + 0.34 * r], fill=255)
        pen.rectangle([c - 0.34 * r, c - r, c + 0.34 * r, c + r], fill=255)
    elif name == "star":
        tips = [(1.08 * r if k % 2 == 0 else 0.42 * r, k * math.pi / 5) for k in range(10)]
        pen.polygon([(c + q * math.sin(t), c - q * math.cos(t)) for q, t in tips], fill=255)
    elif name == "diamond":
        pen.polygon(
            [(c, c - 1.05 * r), (c + 0.75 * r, c), (c, c + 1.05 * r), (c - 0.75 * r, c)], 255
        )
    elif name == "ring":
        pen.ellipse([c - r, c - r, c + r, c + r], fill=255)
        pen.ellipse([c - r / 2, c - r / 2, c + r / 2, c + r / 2], fill=0)
    elif name == "heart":
        pen.ellipse([c - r, c - 0.9 * r, c + 0.12 * r, c + 0.22 * r], fill=255)
        pen.ellipse([c - 0.12 * r, c - 0.9 * r, c + r, c + 0.22 * r], fill=255)
        pen.polygon(
            [(c - 0.94 * r, c - 0.1 * r), (c + 0.94 * r, c - 0.1 * r), (c, c + r)], fill=255
        )
