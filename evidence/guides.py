"""What the question looks at: two questions on one scene, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evidence.making import own_method
from evidence.protocol import Page, Run
from evidence.seen import area, each, opened, task_of, written
from foveate import Chain, Compressor, Step, TextGuided
from foveate.core.ops import top
from foveate.evaluate.recall import holding
from foveate.hosts import reading
from foveate.patchqa import PatchQA, Scene, asked_regions, patches_of

SCENES = 200  # of the test's, the first with two questions about different things
KEEP = 0.5  # where a run says no other
EVERYWHERE = ("baseline", "vision", "text", "both")  # rows that are looked into in every layer


class Two(NamedTuple):
    """A picture, two questions about different things in it, and where those are (height, width)."""

    image: Image.Image
    questions: tuple[str, str]
    asked: tuple[np.ndarray, np.ndarray]


def guides(page: Page, run: Run, out: Path, scenes: int = SCENES) -> dict[str, Any] | None:
    """How the question's attention falls on one scene when one thing is asked or another.

    Of a run with the text-guided sampler at its layer; of the main ones, of the baseline too, in every layer.
    By layer, a number a scene, the mean over its two questions:

    area      the probability that a patch that is asked about is looked at more than another
    other     the same when the other question is put
    kept      the share of the asked patches that stay when `keep` of the tokens do
    chance    the share of all patches that stay then
    overlap   of the tokens that stay for one question, the share that stays for the other
    expected  that share of two sets of that size drawn at random
    """
    card = run.recipe
    if card is None or card.method not in ("identity", "focusllava"):
        return None
    parts = own_method(out).parts() if card.method == "focusllava" else []
    routers = [part for part in parts if not part.selects]
    guided = [part for part in parts if part.selects]
    main = run.name.rpartition("-seed")[0].removeprefix("tiles_") in EVERYWHERE
    if not (main or guided):
        return None
    every = range(1, reading.config(out).get_text_config().num_hidden_layers)
    layers = every if main else [guided[0].site.layer]
    keep, some = guided[0].keep if guided else KEEP, scenes_of(task_of(card), scenes)
    return {"n": len(some), "keep": keep, "layers": seen(out, routers, layers, some, keep)}


def scenes_of(task: PatchQA, n: int) -> list[Two]:
    """The first n scenes of a test with two questions about different things."""
    return list(islice(filter(None, map(two_of, task)), n))


def two_of(scene: Scene) -> Two | None:
    """The first two questions of a scene whose patches have nothing in common; None if there are none."""
    picture = scene.pictures[0]
    about = [(q.text, asked_regions(picture, q.about)) for q in scene.questions if q.about]
    for (one, here), (other, there) in combinations(about, 2):
        if not (patches_of(here) & patches_of(there)).any():
            return Two(picture.pil(), (one, other), (here, there))
    return None


def seen(
    out: Path,
    routers: Sequence[Compressor],
    layers: Sequence[int],
    scenes: Sequence[Two],
    keep: float,
) -> dict[str, dict[str, str]]:
    """The measures by layer: in each, a sampler that keeps all and says what it would choose by."""
    samplers = (TextGuided(keep=1.0, layer=layer) for layer in layers)
    model, processor = opened(out, Chain(*routers, *samplers), "original")
    found = {k: defaultdict(list) for k in layers}
    both = [each(model, processor, [((s.image,), s.questions[q]) for s in scenes]) for q in (0, 1)]
    for scene, (one, i), (other, _) in zip(scenes, *both, strict=True):
        pairs = zip(one[len(routers) :], other[len(routers) :], strict=True)
        for layer, steps in zip(layers, pairs, strict=True):
            for name, value in measured(steps, i, scene, keep).items():
                found[layer][name].append(value)
    return {
        str(layer): {name: written(values) for name, values in of.items()}
        for layer, of in found.items()
    }


def measured(steps: Sequence[Step], i: int, scene: Two, keep: float) -> dict[str, float]:
    """The measures of one scene in one layer. steps: of the two questions."""
    owner, grid = steps[0].owner[i], steps[0].grid[i]
    asked = [holding(regions, grid) for regions in scene.asked]
    scores = [step.scores[i] for step in steps]
    stays = [kept(score, owner, keep) for score in scores]
    there = owner >= 0
    patches = [there & stay[owner.clamp(min=0)] for stay in stays]
    both, n = int((stays[0] & stays[1]).sum()), int(stays[0].sum())
    pairs = list(zip(asked, patches, strict=True))
    # What nobody carries any more has no score.
    own, other = (
        [area(score[there], of[there]) for score, of in zip(some, asked, strict=True)]
        for some in (scores, scores[::-1])
    )
    return {
        "area": fmean(own),
        "other": fmean(other),
        "kept": fmean(float(p[a].float().mean()) for a, p in pairs),
        "chance": fmean(float(p[there].float().mean()) for p in patches),
        "overlap": both / n,
        "expected": n / len(stays[0]),
    }


def kept(score: Tensor, owner: Tensor, keep: float) -> Tensor:
    """(N,) bool: the tokens that stay of those that carry the patches. score, owner (P,)."""
    N = int(owner.max()) + 1
    of_token = torch.zeros(N).index_put((owner[owner >= 0],), score[owner >= 0])
    return top(of_token[None], keep)[0]
