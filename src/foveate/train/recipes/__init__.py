"""The recipes: name → function. One function, one card; a run of it is `foveate train NAME`."""

from __future__ import annotations

from collections.abc import Callable

from foveate.train.recipe import Recipe
from foveate.train.recipes import focusllava, fovea, llava, llava_stf, llavolta, meteor, patchqa


def _by_name(*rooms: object) -> dict[str, Callable[[], Recipe]]:
    """Every function of these modules that makes a recipe, under its own name."""
    found = {}
    for room in rooms:
        own = {n: f for n, f in vars(room).items() if callable(f) and not n.startswith("_")}
        found |= {n: f for n, f in own.items() if getattr(f, "__module__", "") == room.__name__}
    return found


RECIPES: dict[str, Callable[[], Recipe]] = _by_name(
    llava, llava_stf, llavolta, meteor, focusllava, fovea, patchqa
)
