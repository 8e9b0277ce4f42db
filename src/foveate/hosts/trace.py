"""What became of each image at each site, to look at and to draw."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from foveate.compressor import Site


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


@dataclass
class Trace:
    """The steps seen while `foveate.trace(model)` was open, in flow order, prefill by prefill."""

    steps: list[Step] = field(default_factory=list)
