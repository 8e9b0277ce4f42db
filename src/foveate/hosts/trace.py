"""What became of each image at each site, to look at and to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from foveate.core.compressor import Site

SHOWN = 4  # images of a step, and steps of a trace, in one line


@dataclass(frozen=True)
class Step:
    """What one compressor did to the images of one prefill.

    site    where
    owner   (images, patches)  the token that carries each original patch; -1 dropped, -2 row padding
    before  (images,)          tokens that came
    after   (images,)          tokens that stayed
    scores  (images, patches)  what it chose by, such as attention, spread over the original patches; or None
    grid    (images, patches, 3)  view, row and column of each patch
    """

    site: Site
    owner: Tensor
    before: Tensor
    after: Tensor
    scores: Tensor | None
    grid: Tensor | None

    def first(self, images: int) -> Step:
        """The step, of the first images only."""
        names = ("owner", "before", "after", "scores", "grid")
        own = {name: getattr(self, name) for name in names}
        return replace(self, **{n: value[:images] for n, value in own.items() if value is not None})

    def __repr__(self) -> str:
        """In one line: Step(language 2: 576 → 144)."""
        return f"Step({self})"

    def __str__(self) -> str:
        """In one line: language 2: 576 → 144, 288 → 72."""
        pairs = zip(self.before.tolist(), self.after.tolist(), strict=True)
        return f"{self.site}: {_some([f'{before} → {after}' for before, after in pairs], ', ')}"


@dataclass
class Trace:
    """The steps seen while `foveate.trace(model)` was open, in flow order, prefill by prefill."""

    steps: list[Step] = field(default_factory=list)

    def __repr__(self) -> str:
        """In one line: Trace(language 0: 576 → 288; language 16: 288 → 144)."""
        return f"Trace({_some(self.steps, '; ') or 'no prefill yet'})"


def _some(values: Sequence[Any], separator: str) -> str:
    """The first values, and how many there are where that is not all."""
    said = [*map(str, values[:SHOWN])]
    return separator.join([*said, f"… {len(values)} in all"] if len(values) > SHOWN else said)
