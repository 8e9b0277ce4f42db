"""What the evidence measures beyond accuracy: by hand, and on runs that are made for it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_evidence import PAGES, run_of, small

from evidence import focusllava, guides, making, meteor, results, samples, seen
from foveate import Step
from foveate.core.compressor import Site, Tower
from foveate.core.ops import budget
from foveate.evaluate.recall import holding
from foveate.patchqa import PatchQA, patches_of


def cells(rows: int, columns: int, view: int, border: int = 0) -> torch.Tensor:
    """(P, 3) the patches of a view."""
    cell = torch.arange(rows * columns)
    place = [cell * 0 + view, cell // columns + border, cell % columns + border]
    return torch.stack(place, dim=1)


def test_shares_and_areas():
    kept = torch.tensor([[True, True, False, False], [False, True, True, False]])
    asked = torch.tensor([[True, False, True, True], [False, True, True, False]])
    assert seen.shares(kept, asked) == [pytest.approx(1 / 3), 1.0]
    score = torch.tensor([0.1, 0.4, 0.4, 0.2])
    assert seen.area(score, torch.tensor([False, True, False, False])) == pytest.approx(2.5 / 3)
    assert seen.area(score, torch.tensor([True, False, False, False])) == 0
    assert seen.area(score, torch.tensor([False, True, True, False])) == 1


def test_scales_and_truth_are_laid_on_the_map():
    """A map of 4 × 4 behind an overview of 2 × 2: its regions of 2 × 2 at scales 1, 2, 2 and 1."""
    grid = torch.cat([cells(2, 2, 0), cells(4, 4, 1, border=3)])
    fine = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).bool().flatten()
    owner = torch.arange(20)
    owner[4:][~fine] = torch.tensor([20, 20, 20, 20, 21, 21, 21, 21])
    step = Step(Site(Tower.language, 0), owner[None], None, None, None, grid[None])
    side = samples.scales(step, 0)
    assert side.tolist() == [[2, 2, 1, 1], [2, 2, 1, 1], [1, 1, 2, 2], [1, 1, 2, 2]]
    assert [int(side[block].max()) for block in samples.tiled(side, 2)] == [2, 1, 1, 2]
    assert len(list(samples.tiled(side, 3))) == 4
    truth = np.zeros((32, 32), dtype=np.uint8)
    truth[:8, 8:16], truth[16:24, :8], truth[24:, 24:] = 3, 90, 101
    held = seen.kinds(truth, 8)  # background but for a digit, a sign and an object
    assert held.tolist() == [[2, 1, 2, 2], [2, 2, 2, 2], [0, 2, 2, 2], [2, 2, 2, 0]]
    counts = samples.tallied(side.ravel(), held.ravel())
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [7, 6, 0]]
    asked = holding(np.where(truth == 90, truth, 0), grid)
    assert asked.nonzero().flatten().tolist() == [2, 4 + 8]  # in the overview and in the map
    assert seen.laid(torch.arange(20), grid, 1)[3].tolist() == [16, 17, 18, 19]
    assert seen.map_of(grid) == 1


def test_what_stays_is_chosen_token_by_token():
    """Five patches, one dropped before, two of one token: a token is kept whole."""
    owner = torch.tensor([0, 1, 0, -1, 2])
    score = torch.tensor([0.5, 0.1, 0.5, float("nan"), 0.3])
    assert guides.kept(score, owner, 0.34).tolist() == [True, False, False]
    assert guides.kept(score, owner, 0.67).tolist() == [True, False, True]
    one, other = np.zeros((2, 8, 40), dtype=np.uint8)
    one[:, :8], other[:, 8:16] = 1, 2
    scores = torch.stack([score, torch.tensor([0.1, 0.9, 0.1, float("nan"), 0.3])])
    site, grid = Site(Tower.language, 3), cells(1, 5, 0)[None]
    steps = [Step(site, owner[None], None, None, row[None], grid) for row in scores]
    told = guides.measured(steps, 0, guides.Two(None, ("", ""), (one, other)), 0.34)
    assert told["kept"] == 1.0 and told["overlap"] == 0.0
    assert told["expected"] == pytest.approx(1 / 3)
    assert told["chance"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert told["area"] == pytest.approx((5 / 6 + 1) / 2) and told["other"] < 0.2


def test_two_questions_are_about_different_things():
    for two in guides.scenes_of(PatchQA("test", seed=1), 8):
        here, there = map(patches_of, two.asked)
        assert here.any() and there.any() and not (here & there).any()
        assert two.questions[0] != two.questions[1]


def test_shares_of_the_tokens_are_counted_in_two_ways():
    """A sampler half way leaves half of the layers as they were; a method for the test alone, too."""
    rows = results.rows(PAGES["focusllava"])
    text, bare = rows["text"], rows["baseline"]
    assert focusllava.Seen(text).shares == pytest.approx((0.5, 0.75))
    fastv = bare.asked("fastv", keep=0.25, layer=3)
    assert focusllava.Seen(fastv).shares == pytest.approx((0.25, 0.625))
    assert focusllava.Seen(rows["pool"]).shares == pytest.approx((0.25, 0.25))
    both = focusllava.Seen(rows["both"])
    entered = both.entering(np.mean) / 144
    assert both.layers == pytest.approx((entered + both.left) / 2)
    assert sum(both.scale("object", scale) for scale in ("1", "2", "4")) == pytest.approx(1)


@pytest.mark.full
def test_a_run_is_asked_with_other_arguments_and_looked_into(tmp_path, monkeypatch):
    """Selection behind the projector: other budgets, experts alone, and whether it finds what is asked."""
    monkeypatch.setattr(meteor, "ASKED", 5)
    page = replace(PAGES["meteor"], root=tmp_path, questions=11)
    run = run_of(page, "mlp_selection-seed0")
    run = replace(run, recipe=small(run.recipe))
    making.make(page, run)
    result = results.read(page, run)
    assert [answer["tokens"] for answer in result["answers"]] == [36, 16, 7, 36, 36]
    told = result["finds"]
    assert (told["n"], told["kept"], told["patches"]) == (5, 36, 144)
    for some in (told, told["swapped"]):
        values = [v.split() for what in ("recall", "area") for v in some[what].values()]
        assert len(values) == 5 and all(len(v) == 5 for v in values)
        assert all(0 <= float(v) <= 1 for some in values for v in some)
    assert told["recall"]["visual"] == told["swapped"]["recall"]["visual"]
    assert told["area"]["native"] != told["swapped"]["area"]["native"]
    some, out = meteor.sought(page), page.out(run)
    model, processor = seen.opened(out, making.own_method(out), "original")
    step = seen.looked(model, processor, [(e.images, e.question) for e in some])[-1]
    asked = torch.stack([torch.from_numpy(patches_of(e.asked[0])).flatten() for e in some])
    kept = seen.shares(step.owner >= 0, asked)
    assert [float(v) for v in told["recall"]["own"].split()] == pytest.approx(kept, abs=5e-4)
    for row in ("baseline", "pool", "random", "fusion_all"):
        assert meteor.finds(page, run_of(page, f"{row}-seed0"), tmp_path) is None


@pytest.mark.full
def test_a_run_of_focusllava_is_made_and_looked_into(tmp_path, monkeypatch):
    """Both samplers: their tokens are those that evaluation counts, their scales those traced."""
    monkeypatch.setattr(samples, "LOOKED_AT", 5)
    measures = {"samples": samples.samples, "guides": partial(guides.guides, scenes=4)}
    page = replace(PAGES["focusllava"], root=tmp_path, questions=11, measures=measures)
    run = run_of(page, "both-seed0")
    run = replace(run, recipe=small(run.recipe))
    making.make(page, run)
    result = results.read(page, run)
    told = result["samples"]
    tokens = {site: [int(n) for n in text.split()] for site, text in told["tokens"].items()}
    assert {site: len(n) for site, n in tokens.items()} == {"language 0": 11, "language 3": 11}
    own, *others = result["answers"]
    assert own["tokens"] == pytest.approx(sum(tokens["language 3"]) / 11)
    for answer, keep in zip(others, (0.25, 0.75, 1.0), strict=True):
        stay = budget(keep, torch.tensor(tokens["language 0"])).double().mean()
        assert answer["tokens"] == pytest.approx(float(stay))
    for what, each in (("regions", 9), ("patches", 144)):
        numbers = [int(n) for of in told[what].values() for t in of.values() for n in t.split()]
        assert sum(numbers) == 5 * each
    looks = result["guides"]
    assert looks["n"] == 4 and list(looks["layers"]) == ["1", "2", "3", "4", "5"]
    values = [float(v) for of in looks["layers"].values() for t in of.values() for v in t.split()]
    assert len(values) == 5 * 6 * 4 and all(0 <= v <= 1 for v in values)
    _kept_as_the_method_keeps(page.out(run), looks["layers"]["3"])


def _kept_as_the_method_keeps(out, told) -> None:
    """What is measured in layer 3 is what the trained sampler does there."""
    (two,) = guides.scenes_of(PatchQA("test", seed=1), 1)
    model, processor = seen.opened(out, making.own_method(out), "original")
    first, last = seen.looked(model, processor, [((two.image,), q) for q in two.questions])
    asked = torch.stack([torch.from_numpy(patches_of(r)).flatten() for r in two.asked])
    kept = sum(seen.shares(last.owner >= 0, asked)) / 2
    assert float(told["kept"].split()[0]) == pytest.approx(kept, abs=1e-3)
    stays = [set(first.owner[i][last.owner[i] >= 0].tolist()) for i in (0, 1)]
    overlap = len(stays[0] & stays[1]) / len(stays[0])
    assert float(told["overlap"].split()[0]) == pytest.approx(overlap, abs=1e-3)
