"""However a batch is computed, whole, in parts or on two ranks: the same losses, the same weights."""

from __future__ import annotations

import json

import pytest
import small
import torch
import torch.distributed as dist
from small import LEARNED, RANDOM, STAGED

from foveate.train import run

# Regions of 2 × 2, whose scales an undecided router draws, then a share that is drawn too. The balance
# term speaks of a micro-batch, so without it layouts agree for as long as one likes: see test_penalty.py.
SAMPLERS = {"keep": 0.5, "region": 2, "scales": [1, 2], "hidden": 8, "sampled": [0.3, 1.0]}
FOCUSED = {"method": "focusllava", "arguments": {**SAMPLERS, "balance": 0.0}, "split": True}
CASES = [
    pytest.param({**STAGED, "order": "grouped"}, id="stages-grouped"),
    pytest.param({**RANDOM, "order": "shuffled"}, id="random-shuffled"),
    pytest.param({**FOCUSED, "order": "shuffled"}, id="focusllava-shuffled"),
    pytest.param({**LEARNED, "order": "grouped"}, id="depthwise-grouped", marks=pytest.mark.slow),
    pytest.param({**STAGED, "order": "shuffled"}, id="stages-shuffled", marks=pytest.mark.slow),
    pytest.param({**RANDOM, "order": "grouped"}, id="random-grouped", marks=pytest.mark.full),
    pytest.param({**LEARNED, "order": "shuffled"}, id="depthwise-shuffled", marks=pytest.mark.full),
]


def near(one, two, out, other):
    """Adam turns rounding of a gradient near zero into a step, so weights are near, not equal."""
    assert small.losses(one) == pytest.approx(small.losses(two), abs=1e-5, rel=0)
    mine, theirs = small.weights(out), small.weights(other)
    assert mine.keys() == theirs.keys()
    moved = torch.cat([(mine[n] - theirs[n]).abs().flatten() for n in mine])
    assert moved.mean() < 1e-6
    assert moved.max() < 3e-3


@pytest.mark.parametrize("changes", CASES)
def test_accumulation_changes_nothing(card, tmp_path, changes):
    whole = run(card(**changes), tmp_path / "whole")
    parts = run(card(**changes, micro_batch=2), tmp_path / "parts")
    near(whole, parts, tmp_path / "whole", tmp_path / "parts")


@pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo is not built in")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(STAGED, id="stages", marks=pytest.mark.full),
        pytest.param({**RANDOM, "order": "shuffled"}, id="random", marks=pytest.mark.full),
        pytest.param({**FOCUSED, "order": "shuffled"}, id="focusllava", marks=pytest.mark.slow),
        pytest.param({**LEARNED, "order": "grouped"}, id="depthwise", marks=pytest.mark.full),
    ],
)
def test_two_ranks_are_one_process(card, tmp_path, changes):
    recipe = card(**changes, micro_batch=4, steps=4)
    done = small.foveate("train", *small.words(recipe), "--out", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "training.json").read_text())
    assert two["processes"] == 2
    one = run(card(**changes, steps=4), tmp_path / "one")
    near(one, two, tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("changes", [STAGED, FOCUSED], ids=["stages", "focusllava"])
def test_recomputing_activations_changes_nothing(card, tmp_path, changes):
    kept = run(card(**changes), tmp_path / "kept")
    again = run(card(**changes, checkpointing=True), tmp_path / "again")
    assert small.losses(kept) == pytest.approx(small.losses(again), abs=1e-6, rel=0)


def test_bfloat16_is_near(card, tmp_path):
    kept = run(card(**STAGED), tmp_path / "float32")
    half = run(card(**STAGED, bf16=True), tmp_path / "bfloat16")
    assert small.losses(kept) != small.losses(half)
    assert small.losses(kept) == pytest.approx(small.losses(half), rel=5e-3)


def test_schedules_follow_the_steps(card, tmp_path):
    """Two stages: the first half is the first stage's run, to the bit; the rest is not."""
    pooled = {"method": "llavolta", "arguments": {"schedule": "heavy"}}
    staged = {"method": "llavolta", "arguments": {"schedule": "two_stage"}}
    heavy = small.losses(run(card(**pooled), tmp_path / "heavy"))
    both = small.losses(run(card(**staged, micro_batch=4), tmp_path / "both"))
    assert both[:3] == pytest.approx(heavy[:3], abs=1e-5)
    assert both[3] != pytest.approx(heavy[3], abs=1e-4)


@pytest.mark.parametrize("changes", [RANDOM, FOCUSED], ids=["random", "focusllava"])
def test_random_draws_change_with_the_step(card, tmp_path, changes):
    """The same eight records at every step, and nothing learns: only the draws differ."""
    still = {"trains": {"language": 1e-30}, "steps": 3}
    from foveate.train import Records

    recipe = card(**changes, **still)
    eight = [Records(recipe.data, recipe.images)[i] for i in range(8)]
    found = small.losses(run(recipe, tmp_path / "drawn", eight))
    assert len({round(loss, 6) for loss in found}) == 3
