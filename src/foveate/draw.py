"""The picture of what was kept: the image as the model saw it, and one panel per compression step."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    from foveate.hosts.trace import Step, Trace

GAP, MARGIN, LINE = 16, 12, 26
INK, PALE, EDGE = (40, 40, 40), 238.0, (150, 150, 150)
GOLDEN = 0.61803398875


def draw(
    image: Image.Image | Sequence[Image.Image],
    seen: Trace | Sequence[Step],
    side: int = 336,
    scores: bool = False,
) -> Image.Image:
    """Draw what became of each image: a row per image, a panel per step, original first.

    Kept patches stay as they are, dropped ones fade, and patches that share a token share a tint and
    an outline. side is the width of a panel in pixels. With scores, what a step chose by is drawn after
    it, dark to bright. Raises ValueError without steps, or if images and steps do not fit.
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    steps = list(getattr(seen, "steps", seen))
    if not steps:
        raise ValueError(
            "nothing to draw: the trace holds no step; generate inside foveate.trace(model)"
        )
    if any(len(step.owner) != len(images) for step in steps):
        counts = sorted({len(step.owner) for step in steps})
        raise ValueError(
            f"{len(images)} images for steps that saw {counts}: pass every image of the batch"
        )
    rows = [_row(picture, steps, i, side, scores) for i, picture in enumerate(images)]
    width = max(row.width for row in rows)
    sheet = Image.new(
        "RGB", (width + 2 * MARGIN, sum(row.height for row in rows) + 2 * MARGIN), "white"
    )
    top = MARGIN
    for row in rows:
        sheet.paste(row, (MARGIN, top))
        top += row.height
    return sheet


def _row(image: Image.Image, steps: Iterable[Step], i: int, side: int, scores: bool) -> Image.Image:
    """The panels of one image, side by side."""
    panels: list[tuple[np.ndarray, str]] = []
    for step in steps:
        owner = _on_grid(step, i, step.owner[i].detach().cpu().numpy())
        cell = max(side // owner.shape[1], 4)
        pixels = _fitted(image, owner.shape, cell)
        if not panels:
            panels.append((pixels, f"{int((owner > -2).sum())} patches"))
        caption = f"{step.site}: {int(step.after[i])} of {int(step.before[i])} tokens"
        panels.append((kept(pixels, owner, cell), caption))
        if scores and step.scores is not None:
            heat = _on_grid(step, i, step.scores[i].detach().float().cpu().numpy())
            panels.append((_heated(pixels, heat, cell), f"{step.site}: chosen by"))
    return _beside(panels)


def panel(image: Image.Image, step: Step, i: int = 0, side: int = 336) -> Image.Image:
    """What one step left of one image, without caption; i is the image's place in its batch."""
    owner = _on_grid(step, i, step.owner[i].detach().cpu().numpy())
    cell = max(side // owner.shape[1], 4)
    shown = kept(_fitted(image, owner.shape, cell), owner, cell)
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))


def kept(pixels: np.ndarray, owner: np.ndarray, cell: int) -> np.ndarray:
    """One panel. pixels (rows·cell, columns·cell, 3), owner (rows, columns) → the same size."""
    size = np.bincount(owner[owner >= 0], minlength=1)
    merged = (owner >= 0) & (size[owner.clip(0)] > 1)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    faded = (0.22 * grey + 0.78 * PALE)[..., None]
    out = np.where(_cells(owner >= 0, cell)[..., None], pixels, faded)
    tint = np.stack([_tint(token) for token in range(owner.max(initial=0) + 1)])[owner.clip(0)]
    blend = 0.68 * out + 0.32 * _cells(tint, cell)
    out = np.where(_cells(merged, cell)[..., None], blend, out)
    _outline(out, owner, merged, tint * 0.72, cell)
    return out


def _outline(
    out: np.ndarray, owner: np.ndarray, merged: np.ndarray, ink: np.ndarray, cell: int
) -> None:
    """Lines where tokens meet: white between single patches, in a token's own ink around merged ones."""
    rows, columns = owner.shape
    thick = max(cell // 12, 1)
    for row, column in np.ndindex(rows, columns):
        top, left = row * cell, column * cell
        own = owner[row, column]
        mine = merged[row, column]
        line = ink[row, column] if mine else np.full(3, 255.0)
        width = thick if mine else 1
        square = out[top : top + cell, left : left + cell]
        edges = ((-1, 0, square[:width]), (0, -1, square[:, :width]))
        if mine:
            edges += ((1, 0, square[-width:]), (0, 1, square[:, -width:]))
        for down, right, strip in edges:
            r, c = row + down, column + right
            inside = 0 <= r < rows and 0 <= c < columns
            if (not inside and mine) or (inside and not (mine and owner[r, c] == own)):
                strip[:] = line


def _heated(pixels: np.ndarray, heat: np.ndarray, cell: int) -> np.ndarray:
    """The image in grey under a map of the scores, dark purple to yellow."""
    import matplotlib

    known = np.isfinite(heat) & (heat > -2)
    low, high = (heat[known].min(), heat[known].max()) if known.any() else (0.0, 1.0)
    level = ((heat - low) / max(high - low, 1e-12)).clip(0, 1)
    colour = matplotlib.colormaps["magma"](level)[..., :3] * 255
    grey = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    return 0.25 * grey + 0.75 * _cells(colour, cell)


def _on_grid(step: Step, i: int, value: np.ndarray) -> np.ndarray:
    """(patches,) values of one image laid out as (rows, columns); -2 where there is no patch."""
    if step.grid is None:
        side = round(len(value) ** 0.5)
        if side * side != len(value):
            raise ValueError(f"{len(value)} patches are no square, and the step says no grid")
        return value.reshape(side, side)
    view, row, column = step.grid[i].cpu().numpy().T
    real = (row >= 0) & (column >= 0) & (step.owner[i].cpu().numpy() > -2)
    if len(set(view[real])) > 1:
        raise ValueError(f"draw shows one view per image, this one has {len(set(view[real]))}")
    laid = np.full((row[real].max() + 1, column[real].max() + 1), -2, dtype=value.dtype)
    laid[row[real], column[real]] = value[real]
    return laid


def _fitted(image: Image.Image, grid: tuple[int, int], cell: int) -> np.ndarray:
    """The part of the image that the model saw, at whole cells: (rows·cell, columns·cell, 3)."""
    rows, columns = grid
    shown = ImageOps.fit(
        image.convert("RGB"), (columns * cell, rows * cell), Image.Resampling.BICUBIC
    )
    return np.asarray(shown, dtype=np.float64)


def _cells(value: np.ndarray, cell: int) -> np.ndarray:
    """Each entry of a (rows, columns, …) array as a square of pixels."""
    return value.repeat(cell, 0).repeat(cell, 1)


def _tint(token: int) -> tuple[float, ...]:
    """A colour of its own for each token; neighbours in order lie far apart on the colour circle."""
    return tuple(255 * c for c in colorsys.hls_to_rgb(token * GOLDEN % 1, 0.55, 0.75))


def _beside(panels: list[tuple[np.ndarray, str]]) -> Image.Image:
    """Panels side by side, each with its caption below."""
    font = ImageFont.load_default(15)
    widths = [max(p.shape[1], round(font.getlength(text))) for p, text in panels]
    height = max(p.shape[0] for p, _ in panels)
    row = Image.new("RGB", (sum(widths) + GAP * (len(panels) - 1), height + LINE + 6), "white")
    pen, left = ImageDraw.Draw(row), 0
    for (pixels, text), width in zip(panels, widths, strict=True):
        row.paste(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), (left, 0))
        pen.rectangle((left, 0, left + pixels.shape[1] - 1, pixels.shape[0] - 1), outline=EDGE)
        pen.text((left, pixels.shape[0] + 5), text, fill=INK, font=font)
        left += width + GAP
    return row
