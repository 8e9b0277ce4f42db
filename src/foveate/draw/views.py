"""What steps left of one image, laid out on the grids of its views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from foveate.hosts.trace import Step, Trace

Shown = Image.Image | Sequence[Image.Image]  # an image: its picture, or a picture per view


class View(NamedTuple):
    """What one step left of one view, each (rows, columns)."""

    owner: np.ndarray  # the token that carries each patch; -1 dropped, -2 no patch
    size: np.ndarray  # how many patches that token carries, in whichever view; 0 dropped
    rank: np.ndarray | None = None  # place of its score among the image's, 0 … 1; nan unknown
    sized: bool = False  # whether this step joined tokens, so that their sizes are news

    @property
    def merged(self) -> np.ndarray:
        """Whether a patch shares its token."""
        return self.size > 1


def taken(seen: Trace | Sequence[Step], n: int) -> list[Step]:
    """The steps. Raises ValueError if there are none, or if they did not see n images."""
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


def check(images: Sequence[Shown], views: Sequence[Sequence[View]]) -> None:
    """Raise ValueError unless there is one picture for every view."""
    given = [1 if isinstance(shown, Image.Image) else len(shown) for shown in images]
    wanted = [len(of_image) for of_image in views]
    if wanted != given:
        raise ValueError(
            f"the images have {wanted} views, and {given} pictures were given: pass for each a list of "
            "one picture per view; LLaVA-NeXT: [[picture, picture]], a video: [frames]"
        )


def laid(steps: Sequence[Step], i: int, maps: bool = True) -> list[list[View]]:
    """The i-th image's views, step by step; without maps neither what steps went by nor what is news."""
    found = []
    for last, step in zip((None, *steps), steps, strict=False):
        follows = last is not None and _follows(last, step)
        known = _sizes(_row(last.owner, i)) if follows else 1
        owner, size = _row(step.owner, i), _sizes(_row(step.owner, i))
        news = maps and bool(((size != known) & (owner >= 0)).any())
        scored = maps and step.scores is not None
        rank = _ranks(_row(step.scores.float(), i)) if scored else None
        grid = _square(owner) if step.grid is None else _row(step.grid, i)
        found.append(_views(owner, size, rank, grid, news))
    return found


def _follows(last: Step, step: Step) -> bool:
    """Whether a step got what the last one left, and does not begin another prefill."""
    return last.owner.shape == step.owner.shape and bool((last.after == step.before).all())


def _row(values: Tensor, i: int) -> np.ndarray:
    return values[i].detach().cpu().numpy()


def _sizes(owner: np.ndarray) -> np.ndarray:
    """(patches,) how many patches the token of each carries; 0 where it has none."""
    return np.where(owner >= 0, np.bincount(owner[owner >= 0], minlength=1)[owner.clip(0)], 0)


def _views(
    owner: np.ndarray, size: np.ndarray, rank: np.ndarray | None, grid: np.ndarray, news: bool
) -> list[View]:
    """One image's patches on the grids of its views. Tokens for a whole view have no place there."""
    placed = (grid >= 0).all(1) & (owner > -2)
    values = np.stack([owner, size, owner * np.nan if rank is None else rank], axis=1)
    views = []
    for view in np.unique(grid[placed, 0]):
        here = placed & (grid[:, 0] == view)
        cells = grid[here, 1:] - grid[here, 1:].min(0)  # joined tiles begin behind a border
        out = np.full((*cells.max(0) + 1, 3), (-2, 0, np.nan))
        out[tuple(cells.T)] = values[here]
        tokens, sizes, ranks = np.moveaxis(out, -1, 0)
        views.append(
            View(tokens.astype(int), sizes.astype(int), None if rank is None else ranks, news)
        )
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
