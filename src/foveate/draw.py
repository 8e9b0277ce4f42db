"""The picture of what was kept: each view as the model saw it, and one panel per compression step."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    from foveate.hosts.trace import Step, Trace

GAP, MARGIN, LINE = 16, 12, 26
INK, PALE, EDGE = (40, 40, 40), 238.0, (150, 150, 150)
GREY = np.array([0.299, 0.587, 0.114])
GOLDEN = 0.61803398875
FEW, BAND = 3, 8  # views that get a row each; beyond, how many stand side by side at most

Shown = Image.Image | Sequence[Image.Image]  # an image: its picture, or a picture per view


class View(NamedTuple):
    """What one step left of one view, each (rows, columns)."""

    owner: np.ndarray  # the token that carries each patch; -1 dropped, -2 no patch
    merged: np.ndarray  # whether that token carries other patches too, in whichever view
    rank: np.ndarray | None  # place of its score among the image's, 0 … 1; nan unknown


def draw(
    image: Image.Image | Sequence[Shown],
    seen: Trace | Sequence[Step],
    side: int = 336,
    scores: bool = False,
) -> Image.Image:
    """Draw what became of each image: a row per image and view, a panel per step, original first.

    Kept patches stay as they are, dropped ones fade, and patches that share a token share a tint and
    an outline, across views too. side is the width of a panel in pixels. More than three views make a
    film strip instead: narrower panels, views side by side, steps below each other.

    image is a picture, or for each image of the batch a picture or a list of one picture per view: a
    LLaVA-NeXT image is [[picture, picture]], a video [frames]. A listed picture is shown whole,
    stretched to its view's grid. One that stands alone loses what a square grid cannot hold, as in
    CLIP's preparation, and the caption says so; [[picture]] shows it whole.

    With scores, what a step chose by is drawn after it, coloured by rank: dark purple for the image's
    lowest score to pale yellow for its highest, as many patches in each shade. Patches without one fade.

    Raises ValueError without steps, or if images, views and steps do not fit.
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    steps = _steps(seen, len(images))
    laid = [[_views(step, i, scores) for step in steps] for i in range(len(images))]
    for at_step in zip(*laid, strict=True):
        _check(images, at_step)
    blocks = []
    for i, shown in enumerate(images):
        told = [(f"{s.site}", f"{int(s.after[i])} of {int(s.before[i])} tokens") for s in steps]
        blocks.append(_block(shown, laid[i], told, f"image {i + 1}" * (len(images) > 1), side))
    return ImageOps.expand(_joined(blocks, down=True), MARGIN, "white")


def panel(image: Shown, step: Step, i: int = 0, side: int = 336) -> Image.Image:
    """What one step left of the i-th image of its batch, without caption; its views side by side."""
    views = _views(step, i, scores=False)
    _check([image], [views])
    panels = [_panels(image, v, [view], side)[1] for v, view in enumerate(views)]
    return _joined([_picture(pixels) for pixels in panels], down=False)


def _steps(seen: Trace | Sequence[Step], n: int) -> list[Step]:
    """The steps, if there are any and they saw n images."""
    steps = list(getattr(seen, "steps", seen))
    if not steps:
        raise ValueError(
            "nothing to draw: the trace holds no step; generate inside foveate.trace(model)"
        )
    counts = sorted({len(step.owner) for step in steps})
    if counts != [n]:
        raise ValueError(
            f"{n} images for steps that saw {counts}: pass every image of the batch; the views of one, "
            "such as the frames of a video, are a list of their own: [frames]"
        )
    return steps


def _check(images: Sequence[Shown], views: Sequence[Sequence[View]]) -> None:
    """Raise unless there is one picture for every view."""
    given = [1 if isinstance(shown, Image.Image) else len(shown) for shown in images]
    wanted = [len(of_image) for of_image in views]
    if wanted != given:
        raise ValueError(
            f"the images have {wanted} views, and {given} pictures were given: pass for each a list of "
            "one picture per view; LLaVA-NeXT: [[picture, picture]], a video: [frames]"
        )


def _views(step: Step, i: int, scores: bool) -> list[View]:
    """One image's patches on the grids of its views. Tokens for a whole view have no place there."""
    owner = step.owner[i].detach().cpu().numpy()
    size = np.bincount(owner[owner >= 0], minlength=1)
    merged = (owner >= 0) & (size[owner.clip(0)] > 1)
    scores = scores and step.scores is not None
    rank = _ranks(step.scores[i].detach().float().cpu().numpy()) if scores else owner * np.nan
    grid = _square(owner) if step.grid is None else step.grid[i].cpu().numpy()
    placed = (grid >= 0).all(1) & (owner > -2)
    values, views = np.stack([owner, merged, rank], axis=1), []
    for view in np.unique(grid[placed, 0]):
        here = placed & (grid[:, 0] == view)
        cells = grid[here, 1:] - grid[here, 1:].min(0)  # joined tiles begin behind a border
        laid = np.full((*cells.max(0) + 1, 3), (-2, 0, np.nan))
        laid[tuple(cells.T)] = values[here]
        tokens, shared, ranks = np.moveaxis(laid, -1, 0)
        views.append(View(tokens.astype(int), shared > 0, ranks if scores else None))
    return views


def _square(owner: np.ndarray) -> np.ndarray:
    """(patches, 3) view, row and column of patches that fill a square, row by row."""
    patch, n = (owner > -2).cumsum() - 1, int((owner > -2).sum())
    side = math.isqrt(n)
    if side * side != n:
        raise ValueError(f"{n} patches are no square, and the step says no grid")
    return np.stack([patch * 0, patch // side, patch % side], axis=1)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Each score's place among all, 0 lowest to 1 highest; equal scores share one, nan stays nan."""
    out = np.full(scores.shape, np.nan)
    known = ~np.isnan(scores)
    _, place, count = np.unique(scores[known], return_inverse=True, return_counts=True)
    middle = count.cumsum() - (count + 1) / 2
    out[known] = middle[place] / max(known.sum() - 1, 1)
    return out


def _block(
    shown: Shown, laid: list[list[View]], told: list[tuple[str, str]], name: str, side: int
) -> Image.Image:
    """Everything of one image. laid: its views, step by step; told: site and total of each step."""
    n = len(laid[0])
    strip = n > FEW
    across = math.ceil(n / math.ceil(n / BAND)) if strip else 1
    width = min(side, 4 * side // across) if strip else side
    rows = []
    for v, views in enumerate(zip(*laid, strict=True)):
        title = ", ".join(filter(None, (name, f"view {v + 1}" * (n > 1))))
        patches = f"{(views[0].owner > -2).sum()} patches"
        patches += " of its middle" * _loses(shown, views[0].owner.shape)
        captions = [title if strip else ": ".join(filter(None, (title, patches)))]
        for view, (site, total) in zip(views, told, strict=True):
            own = f"{len(np.unique(view.owner[view.owner >= 0]))} tokens"
            captions.append(f"{site}: {own if n > 1 else total}")
            captions += ["scores by rank"] * (view.rank is not None)
        panels = zip(_panels(shown, v, views, width), captions, strict=True)
        rows.append(_joined([_captioned(p, text, width) for p, text in panels], down=strip))
    if strip:
        rows = [_joined(rows[k : k + across], down=False) for k in range(0, n, across)]
    if n > 1:
        head = "; ".join([f"{name or 'image'}: {n} views", *map(": ".join, told)])
        rows.insert(0, _line(head))
    return _joined(rows, down=True)


def _panels(shown: Shown, v: int, views: Sequence[View], side: int) -> list[np.ndarray]:
    """One view: as it was, then what each step left of it and, where asked for, what it chose by."""
    panels: list[np.ndarray] = []
    for view in views:
        cell = max(side // view.owner.shape[1], 4)
        pixels = _fitted(shown, v, view.owner.shape, cell)
        if not panels:
            panels.append(pixels)
        panels.append(kept(pixels, view, cell))
        if view.rank is not None:
            panels.append(_heated(pixels, view.rank, cell))
    return panels


def kept(pixels: np.ndarray, view: View, cell: int) -> np.ndarray:
    """One panel. pixels (rows·cell, columns·cell, 3) → the same size."""
    owner, merged = view.owner, view.merged
    out = np.where(_cells(owner >= 0, cell)[..., None], pixels, _faded(pixels))
    tint = np.stack([_tint(token) for token in range(owner.max(initial=0) + 1)])[owner.clip(0)]
    blend = 0.68 * out + 0.32 * _cells(tint, cell)
    out = np.where(_cells(merged, cell)[..., None], blend, out)
    _outline(out, view, tint * 0.72, cell)
    return out


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


def _heated(pixels: np.ndarray, rank: np.ndarray, cell: int) -> np.ndarray:
    """The image in grey under a map of the ranks, dark purple to pale yellow; faded where unknown."""
    import matplotlib

    colour = matplotlib.colormaps["magma"](np.nan_to_num(rank))[..., :3] * 255
    mapped = 0.25 * (pixels @ GREY)[..., None] + 0.75 * _cells(colour, cell)
    return np.where(_cells(np.isnan(rank), cell)[..., None], _faded(pixels), mapped)


def _faded(pixels: np.ndarray) -> np.ndarray:
    return (0.22 * (pixels @ GREY) + 0.78 * PALE)[..., None]


def _fitted(shown: Shown, v: int, grid: tuple[int, int], cell: int) -> np.ndarray:
    """What the model saw of view v, at whole cells: (rows·cell, columns·cell, 3)."""
    picture = (shown if isinstance(shown, Image.Image) else shown[v]).convert("RGB")
    fit = ImageOps.fit if _loses(shown, grid) else Image.Image.resize
    size = (grid[1] * cell, grid[0] * cell)
    return np.asarray(fit(picture, size, Image.Resampling.BICUBIC), dtype=np.float64)


def _loses(shown: Shown, grid: tuple[int, int]) -> bool:
    """Whether a patch or more of a lone picture is cut off: one that is no square, on a square grid."""
    if not isinstance(shown, Image.Image) or grid[0] != grid[1]:
        return False
    return max(shown.size) / min(shown.size) > 1 + 1 / grid[0]


def _cells(value: np.ndarray, cell: int) -> np.ndarray:
    """Each entry of a (rows, columns, …) array as a square of pixels."""
    return value.repeat(cell, 0).repeat(cell, 1)


def _tint(token: int) -> tuple[float, ...]:
    """A colour of its own for each token; neighbours in order lie far apart on the colour circle."""
    return tuple(255 * c for c in colorsys.hls_to_rgb(token * GOLDEN % 1, 0.55, 0.75))


def _captioned(pixels: np.ndarray, text: str, width: int) -> Image.Image:
    """A panel at least `width` wide, so that panels stand in columns, with its caption below."""
    picture, line = _picture(pixels), _line(text)
    right, bottom = picture.size
    out = ImageOps.expand(picture, (0, 0, max(width, right, line.width) - right, LINE), "white")
    ImageDraw.Draw(out).rectangle((0, 0, right - 1, bottom - 1), outline=EDGE)
    out.paste(line, (0, bottom))
    return out


def _line(text: str) -> Image.Image:
    font = ImageFont.load_default(15)
    line = Image.new("RGB", (math.ceil(font.getlength(text)), LINE), "white")
    ImageDraw.Draw(line).text((0, 4), text, fill=INK, font=font)
    return line


def _joined(pictures: Sequence[Image.Image], down: bool) -> Image.Image:
    """Pictures below each other, or side by side."""
    gap = GAP // 4 if down else GAP
    tops = [0]
    for picture in pictures:
        tops.append(tops[-1] + picture.size[down] + gap)
    across, along = max(picture.size[not down] for picture in pictures), tops.pop() - gap
    sheet = Image.new("RGB", (across, along) if down else (along, across), "white")
    for picture, at in zip(pictures, tops, strict=True):
        sheet.paste(picture, (0, at) if down else (at, 0))
    return sheet


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
