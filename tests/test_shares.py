"""Shares of tokens: measured question by question, of what was really kept, and told both ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from probes import routed
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from foveate import Chain, FastV, Random, RegionSampler, Stride, TextGuided, compressed, evaluate
from foveate.cli.tables import shares
from foveate.core.compressor import language
from foveate.embedded import PATH
from foveate.evaluate.costs import costs, probes
from foveate.evaluate.shares import kept
from foveate.hosts.trace import Step
from foveate.patchqa import PatchQA

LAYERS, PATCHES = 6, 144
JOB = evaluate.Job("tiny", "f", "patchqa", "e", 10, 0, "focus", None, "?", "original", 4, 3)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(PATH)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(PATH)).eval()


@pytest.fixture(scope="module")
def examples():
    return PatchQA("test").examples(10)


def ragged() -> Chain:
    """A router that decides, so that every image keeps another number; then half of that."""
    return Chain(
        routed(RegionSampler(width=128, hidden=8, explore=False)), TextGuided(0.5, layer=3)
    )


def step(layer: int, before: list[int], after: list[int]) -> Step:
    counts = [torch.tensor(count) for count in (before, after)]
    return Step(language(layer), torch.zeros(0), *counts, None, None)


def test_shares_by_hand():
    """Two images of the first prompt, none of the second, one of the third; six layers."""
    some = [step(0, [10, 30, 8], [10, 10, 4]), step(4, [10, 10, 4], [2, 3, 4])]
    first, none, third = kept(some, [2, 0, 1], 6)
    assert first.steps == (20, 10, 2.5)
    assert first.share == pytest.approx(5 / 40)
    assert first.layer_share == pytest.approx((4 * 20 + 2 * 5) / 6 / 40)
    assert (none.steps, none.share, none.layer_share) == ((), None, None)
    assert (third.share, third.layer_share) == (0.5, 0.5)


def test_rows_that_are_not_the_users_images():
    """Four tiles of two images: each prompt is taken for the mean."""
    found = kept([step(0, [8, 8, 8, 8], [4, 2, 4, 2])], [1, 1], 6)
    assert [(one.steps, one.share) for one in found] == [((16, 6), 6 / 16)] * 2


@pytest.mark.parametrize(
    ("method", "steps", "share", "layer_share"),
    [
        (Stride(0.25), [144, 36], 0.25, 0.25),
        (FastV(0.25, layer=2), [144, 36], 0.25, (2 + 4 / 4) / 6),
        (Chain(Stride(0.5), FastV(0.5, layer=3)), [144, 72, 36], 0.25, (3 / 2 + 3 / 4) / 6),
    ],
)
def test_both_ways_to_count(model, processor, examples, method, steps, share, layer_share):
    found = evaluate.run(model, processor, examples, JOB, method)
    assert [found["steps"][0]["before"], *(s["after"] for s in found["steps"])] == steps
    assert [s["site"] for s in found["steps"]] == [str(part.site) for part in method.parts()]
    assert found["share"] == share
    assert found["layer_share"] == pytest.approx(layer_share)
    assert found["cost"]["equivalent_tokens"] == pytest.approx(PATCHES * layer_share)
    assert found["tokens"] == PATCHES * share


def test_a_bare_model_keeps_all(model, processor, examples):
    found = evaluate.run(model, processor, examples, JOB)
    assert (found["steps"], found["share"], found["layer_share"]) == ([], 1.0, 1.0)
    assert shares(found) == []


def test_what_is_kept_may_differ_from_question_to_question(model, processor, examples, tmp_path):
    """The run's figures are the mean over all its prompts, each of which was prefilled alone."""
    method = ragged()
    found = evaluate.run(model, processor, examples, JOB, method, tmp_path)
    asks = [(e.images, e.question) for e in examples]
    with compressed(model, method):
        alone = probes(model, processor, asks)
        unknown = [{"columns": None, "words": 0}] * len(asks)
        truth = costs(model, alone, unknown)
    lengths = {load.lengths for load, _ in alone}
    assert len(lengths) > len(asks) // 2  # ragged indeed
    for name in ("language", "kv_bytes", "equivalent_tokens", "scorer", "vision", "total"):
        assert found["cost"][name] == pytest.approx(truth[name], rel=1e-6), name
    answers = found["answers"].values()
    for name in ("share", "layer_share"):
        assert found[name] == pytest.approx(sum(a[name] for a in answers) / len(asks))
    assert found["cost"]["equivalent_tokens"] == pytest.approx(PATCHES * found["layer_share"])
    assert found["steps"][-1]["after"] == pytest.approx(found["tokens"])
    assert [s["compressor"] for s in found["steps"]] == ["RegionSampler", "TextGuided"]
    assert "columns" not in next(iter(answers))


def test_a_batch_and_its_padding_change_no_count(model, processor, examples):
    method = ragged()
    runs = [
        evaluate.run(model, processor, examples, replace(JOB, batch_size=size), method)
        for size in (1, 5)
    ]
    assert runs[0]["cost"] == pytest.approx(runs[1]["cost"])
    one, other = ([a["steps"] for a in run["answers"].values()] for run in runs)
    assert one == other


def test_without_a_cache_the_first_prefill_counts(model, processor, examples):
    asks = [(e.images, e.question) for e in examples[:2]]
    with compressed(model, Random(0.25)):
        want = evaluate.replies(model, processor, asks, 3)
        model.generation_config.use_cache = False
        try:
            found = evaluate.replies(model, processor, asks, 3)
        finally:
            model.generation_config.use_cache = True
    assert [reply.kept for reply in found] == [reply.kept for reply in want]
    assert [reply.columns for reply in found] == [None, None]


def test_a_person_is_told_both(model, processor, examples):
    lines = shares(evaluate.run(model, processor, examples, JOB, FastV(0.25, layer=2)))
    assert lines == [
        "tokens of an image: 144 → 36 after FastV (language 2)",
        "share of the tokens: 25 % left at the end, 50 % in the mean over the decoder layers",
    ]


def test_results_of_an_earlier_foveate_are_shown(model, processor, examples):
    """They say nothing of steps."""
    found = evaluate.run(model, processor, examples, JOB, Stride(0.25))
    older = {k: v for k, v in found.items() if k not in ("steps", "share", "layer_share")}
    (row,) = evaluate.comparison([older])["runs"]
    assert "share" not in row and shares(row) == []
    (row,) = evaluate.comparison([found])["runs"]
    assert row["layer_share"] == 0.25
