"""How many tokens each of FocusLLaVA's samplers leaves, and which scale the router gives to what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence.making import own_method
from evidence.protocol import Page, Run
from evidence.seen import KINDS, area, each, kinds, laid, map_of, opened, task_of, written
from foveate import Step

LOOKED_AT = 400  # of the test's pictures, the first
BUSY = len(KINDS) - 1  # all kinds before the last
SCALES = (1, 2, 4)


def samples(page: Page, run: Run, out: Path) -> dict[str, Any] | None:
    """Tokens of every picture after each sampler, and the scales of its regions; None of other methods.

    before   tokens of a picture
    tokens   by site, how many are left of each picture of the test
    regions  by kind of what they hold and by scale, how many regions of each of the first pictures
    patches  the same of the patches themselves
    area     of a picture with both: the probability that the router expects more tokens of a busy region, one
             that holds text or objects, than of one that holds background alone

    Each is a string of numbers, one a picture. Without a router, the first two alone.
    """
    card = run.recipe
    if card is None or card.method != "focusllava":
        return None
    task = task_of(card)
    examples = task.examples(page.questions)
    model, processor = opened(out, own_method(out), card.positions)
    before: set[int] = set()
    tokens: dict[str, list[int]] = defaultdict(list)
    first: list[tuple[Step, int]] = []
    for steps, i in each(model, processor, [(e.images, e.question) for e in examples]):
        before.add(int(steps[0].before[i]))
        first.append((steps[0], i))
        for step in steps:
            tokens[str(step.site)].append(int(step.after[i]))
    (all_of_it,) = before
    found = {"before": all_of_it, "tokens": {site: _counts(n) for site, n in tokens.items()}}
    if len(card.arguments.get("scales", SCALES)) == 1 or card.arguments.get("only") == "text":
        return found
    # The truth about an example's picture: its scene's number stands last in its key.
    scenes = [task[int(e.key.rsplit("-", 1)[1])] for e in examples[:LOOKED_AT]]
    regions = [scene.pictures[0].regions for scene in scenes]
    return found | scaled(first[:LOOKED_AT], regions, card.arguments.get("region", 4))


def scaled(
    first: Sequence[tuple[Step, int]], pictures: Sequence[np.ndarray], region: int
) -> dict[str, Any]:
    """Scales of regions and patches by kind. first: a step and which of its images; pictures: the truth."""
    counts: dict[str, list[np.ndarray]] = {"regions": [], "patches": []}
    areas = []
    for (step, i), truth in zip(first, pictures, strict=True):
        side = scales(step, i)
        kind = kinds(truth, len(truth) // len(side))
        expected = laid(step.scores[i], step.grid[i], map_of(step.grid[i]))
        blocks = [(side[b].max(), kind[b].min(), expected[b].mean()) for b in tiled(side, region)]
        sides, held, likely = map(np.array, zip(*blocks, strict=True))
        counts["regions"].append(tallied(sides, held))
        counts["patches"].append(tallied(side.ravel(), kind.ravel()))
        busy = torch.from_numpy(held < BUSY)
        if busy.any() and not busy.all():
            areas.append(area(torch.from_numpy(likely), busy))
    told = {
        what: {
            kind: {str(s): _counts(each[k, n] for each in some) for n, s in enumerate(SCALES)}
            for k, kind in enumerate(KINDS)
        }
        for what, some in counts.items()
    }
    return told | {"area": written(areas)}


def scales(step: Step, i: int) -> np.ndarray:
    """(rows, columns) the side of the window that each patch of the map was pooled in."""
    owner = step.owner[i]
    size = torch.bincount(owner[owner >= 0])[owner.clamp(min=0)]
    return laid(size.double().sqrt().round().long(), step.grid[i], map_of(step.grid[i]))


def tiled(grid: np.ndarray, region: int) -> Iterator[tuple[slice, slice]]:
    """The regions of a grid, the last of a row and a column smaller."""
    rows, columns = grid.shape
    for top in range(0, rows, region):
        for left in range(0, columns, region):
            yield slice(top, top + region), slice(left, left + region)


def tallied(sides: np.ndarray, held: np.ndarray) -> np.ndarray:
    """(kinds, 3) how many there are of each kind at scale 1, 2 and 4. sides, held (n,)."""
    return np.array(
        [[np.sum((held == k) & (sides == s)) for s in SCALES] for k in range(len(KINDS))]
    )


def _counts(numbers: Iterable[Any]) -> str:
    return " ".join(str(int(n)) for n in numbers)
