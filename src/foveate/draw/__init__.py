"""Pictures of what was kept, of what a token carries, and of what steps went by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from foveate.draw.sheet import heatmaps, panels
    from foveate.draw.views import Shown
    from foveate.hosts.trace import Step, Trace

__all__ = ["draw", "heatmaps", "panels"]


def draw(
    image: Image.Image | Sequence[Shown],
    seen: Trace | Sequence[Step],
    side: int = 336,
    maps: bool = True,
    above: Sequence[str] = (),
) -> Image.Image:
    """Draw what became of each image: a row per image and view, panels per step, original first.

    Kept patches stay as they are, dropped ones fade, and patches that share a token share a tint and
    an outline, across views too. side is the width of a panel in pixels. More than three views make a
    film strip instead: narrower panels, views side by side, steps below each other.

    image is a picture, or for each image of the batch a picture or a list of one picture per view: a
    LLaVA-NeXT image is [[picture, picture]], a video [frames]. A listed picture is shown whole,
    stretched to its view's grid. One that stands alone loses what a square grid cannot hold, as in
    CLIP's preparation, and the caption says so; [[picture]] shows it whole.

    With maps, a step that joins tokens is followed by a map of how many patches each one carries, with
    its legend; and a step with scores by what it chose by, coloured by rank: dark purple for the image's
    lowest score to pale yellow for its highest, as many patches in each shade. Patches without a token,
    or a score, fade. above: lines of text above everything, such as the question and the answer.

    Raises ValueError without steps, or if images, views and steps do not fit.
    """
    from foveate.draw.sheet import whole

    return whole(image, seen, side, maps, above)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'foveate.draw' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("foveate.draw.sheet"), name)
