"""The picture of what was kept: each view as the model saw it, and panels of each compression step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from foveate.draw import layout, paint
from foveate.draw.views import Shown, View, check, laid, taken

if TYPE_CHECKING:
    from foveate.hosts.trace import Step, Trace

FEW, BAND = 3, 8  # views that get a row each; beyond, how many stand side by side at most
ACROSS, MARGIN = 7, 12  # panels in a row; pixels around everything

Panel = tuple[np.ndarray, Image.Image | str]  # pixels, and the caption below them
Paint = Callable[[np.ndarray, View, int, str], Iterator[Panel]]


def whole(
    image: Image.Image | Sequence[Shown],
    seen: Trace | Sequence[Step],
    side: int,
    maps: bool,
    above: Sequence[str],
) -> Image.Image:
    """What `foveate.draw` draws."""
    images = [image] if isinstance(image, Image.Image) else list(image)
    steps = taken(seen, len(images))

    def paints(pixels: np.ndarray, view: View, cell: int, told: str) -> Iterator[Panel]:
        yield paint.kept(pixels, view, cell), told
        yield from _maps(pixels, view, cell)

    sheet = _sheet(images, steps, _totals(steps, len(images)), paints, maps, side, ACROSS)
    return titled(sheet, above)


def titled(sheet: Image.Image, above: Sequence[str]) -> Image.Image:
    """A sheet below lines of text."""
    lines = layout.heading(above, sheet.width - 2 * MARGIN)
    if not lines:
        return sheet
    head = ImageOps.expand(
        layout.joined(lines, down=True, gap=0), (MARGIN, MARGIN, MARGIN, 0), "white"
    )
    return layout.joined([head, sheet], down=True, gap=0)


def heatmaps(
    image: Image.Image | Sequence[Shown],
    seen: Trace | Sequence[Step],
    told: Sequence[str],
    side: int = 240,
    across: int = 4,
    above: Sequence[str] = (),
) -> Image.Image:
    """Draw what each step chose by and nothing else: the original, then a map per step, told below it.

    Coloured by rank, as in `draw`; across is how many panels stand in a row, above what stands above them.
    Raises ValueError as `draw` does, and for steps without scores.
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    steps = taken(seen, len(images))
    if blind := [str(step.site) for step in steps if step.scores is None]:
        raise ValueError(f"no scores to draw at {', '.join(blind)}")

    def paints(pixels: np.ndarray, view: View, cell: int, told: str) -> Iterator[Panel]:
        yield paint.heated(pixels, view, cell), told

    words = [[("", text) for text in told] for _ in images]
    sheet = _sheet(images, steps, words, paints, True, side, across)
    key = ImageOps.expand(layout.bar("lowest", "highest"), (MARGIN, 0, 0, MARGIN), "white")
    return titled(layout.joined([sheet, key], down=True, gap=0), above)


def panels(
    image: Shown, seen: Trace | Sequence[Step], i: int = 0, side: int = 336, maps: bool = True
) -> list[Image.Image]:
    """What each step left of the i-th image of its batch, its maps below if wanted, without captions.

    The views of the image stand side by side. Raises ValueError as `draw` does.
    """
    steps, pictures = list(getattr(seen, "steps", seen)), []
    for views in laid(steps, i):
        check([image], [views])
        columns = []
        for v, view in enumerate(views):
            pixels, cell = _pixels(image, v, view, side)
            shown = [paint.kept(pixels, view, cell)]
            shown += [drawn for drawn, _ in _maps(pixels, view, cell)] if maps else []
            columns.append(layout.joined([layout.picture(one) for one in shown], down=True))
        pictures.append(layout.joined(columns, down=False))
    return pictures


def _maps(pixels: np.ndarray, view: View, cell: int) -> Iterator[Panel]:
    """How many patches each token carries, where that is news; and what the step chose by."""
    if view.sized:
        yield paint.sized(pixels, view, cell), layout.legend(view.size[view.size > 0])
    if view.rank is not None:
        alike = np.nanmax(view.rank, initial=0.5) == np.nanmin(view.rank, initial=0.5)
        told = "scores: all alike" if alike else layout.bar("score: lowest", "highest")
        yield paint.heated(pixels, view, cell), told


def _totals(steps: Sequence[Step], n: int) -> list[list[tuple[str, str]]]:
    """For each of n images, what stands below each step: its site, and its tokens of all views."""
    return [
        [(f"{s.site.words}: ", f"{int(s.after[i])} of {int(s.before[i])} tokens") for s in steps]
        for i in range(n)
    ]


def _sheet(
    images: Sequence[Shown],
    steps: Sequence[Step],
    told: Sequence[Sequence[tuple[str, str]]],
    paints: Paint,
    maps: bool,
    side: int,
    across: int,
) -> Image.Image:
    """All images below each other. told: of each image and step, its site and its total."""
    every = [laid(steps, i, maps) for i in range(len(images))]
    for at_step in zip(*every, strict=True):
        check(images, at_step)
    blocks = []
    for i, (shown, views) in enumerate(zip(images, every, strict=True)):
        name = f"image {i + 1}" * (len(images) > 1)
        blocks.append(_block(shown, views, told[i], name, paints, side, across))
    return ImageOps.expand(layout.joined(blocks, down=True), MARGIN, "white")


def _block(
    shown: Shown,
    steps: list[list[View]],
    told: Sequence[tuple[str, str]],
    name: str,
    paints: Paint,
    side: int,
    across: int,
) -> Image.Image:
    """Everything of one image. steps: its views, step by step."""
    n = len(steps[0])
    strip = n > FEW
    band = math.ceil(n / math.ceil(n / BAND)) if strip else 1
    width = min(side, 4 * side // band) if strip else side
    rows = []
    for v, views in enumerate(zip(*steps, strict=True)):
        title = ", ".join(filter(None, (name, f"view {v + 1}" * (n > 1))))
        if not strip:
            title = ": ".join(filter(None, (title, _patches(shown, views[0]))))
        pixels, cell = _pixels(shown, v, views[0], width)
        row = [(pixels, title)]
        for view, (site, total) in zip(views, told, strict=True):
            where = "" if strip else site  # of a strip, the line above says it
            row += paints(pixels, view, cell, where + (_tokens(view) if n > 1 and site else total))
        row = [layout.captioned(*panel, width) for panel in row]
        rows.append(layout.joined(row, down=True) if strip else layout.wrapped(row, across))
    if strip:
        rows = [layout.joined(rows[k : k + band], down=False) for k in range(0, n, band)]
    if n > 1 and any(site for site, _ in told):
        rows.insert(
            0, layout.line("; ".join([f"{name or 'image'}: {n} views", *map("".join, told)]))
        )
    return layout.joined(rows, down=True)


def _patches(shown: Shown, view: View) -> str:
    middle = " of its middle" * paint.loses(shown, view.owner.shape)
    return f"{(view.owner > -2).sum()} patches{middle}"


def _tokens(view: View) -> str:
    return f"{len(np.unique(view.owner[view.owner >= 0]))} tokens"


def _pixels(shown: Shown, v: int, view: View, side: int) -> tuple[np.ndarray, int]:
    """What the model saw of view v, and how many pixels wide a patch of it is drawn."""
    cell = max(side // view.owner.shape[1], 4)
    return paint.fitted(shown, v, view.owner.shape, cell), cell
