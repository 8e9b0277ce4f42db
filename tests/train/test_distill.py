"""The compressed answer learns from the same weights' answer with all tokens, however a batch is computed."""

from __future__ import annotations

import json

import pytest
import small
import torch
import torch.distributed as dist
from processors import llava
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

import foveate
from foveate import FastV, Identity, sized
from foveate.hosts import attach
from foveate.hosts.attachment import attachment_of
from foveate.train import Collator, Records, run
from foveate.train.distill import divergence

METHODS = {
    "stride": {"keep": 4},
    "fovea": {"keep": 0.25, "weights": "question", "vector": "mean", "sampled": [0.1, 1.0]},
    "llava_stf": {"keep": 0.25},
}
STEP = {"steps": 1, "split": True, "order": "grouped", "distill": 0.5, "full": 0.25}


def changes(method: str, **more) -> dict:
    return {**STEP, "method": method, "arguments": METHODS[method], **more}


def logged(document: dict) -> dict:
    (entry,) = (entry for entry in document["history"] if "loss" in entry)
    return entry


@pytest.fixture
def answers(model, data):
    """Logits of answers on one batch, by what is attached; the labels."""
    loaded = AutoModelForImageTextToText.from_pretrained(model).train()
    batch = Collator(llava())([Records(data, data.parent)[i] for i in (0, 1)])
    mine = batch["labels"][:, 1:] != -100

    def ask(method, resting=False):
        foveate.compress(loaded, method)
        if resting:
            with attach.resting(loaded):
                return loaded(**batch).logits[:, :-1][mine]
        return loaded(**batch).logits[:, :-1][mine]

    return ask, batch["labels"][:, 1:][mine], loaded


@pytest.mark.parametrize("slug", METHODS)
def test_a_resting_method_leaves_the_bare_model(answers, slug):
    ask, _, loaded = answers
    foveate.set_progress(foveate.compress(loaded, Identity()), 0, 1)
    bare = ask(Identity())
    made = sized(foveate.METHODS[slug], loaded, **METHODS[slug])
    assert torch.equal(ask(made, resting=True), bare)
    foveate.set_progress(loaded, 0, 1)
    loaded.model.visual_compressor.eval()
    assert not attachment_of(loaded).resting


def test_the_loss_is_what_it_says(card, answers, model, data, tmp_path):
    """Of one step on two records: cross entropies and a divergence, worked out by hand."""
    ask, labels, _ = answers
    few, whole = ask(FastV(4, layer=1)).detach(), ask(Identity()).detach()
    method = {"method": "fastv", "arguments": {"keep": 4, "layer": 1}}
    some = [Records(data, data.parent)[i] for i in (0, 1)]
    told = logged(
        run(
            card(steps=1, distill=0.5, full=0.25, batch=2, micro_batch=2, **method),
            tmp_path / "out",
            some,
        )
    )
    apart = divergence(whole, few) / len(labels)
    want = cross_entropy(few, labels) + 0.5 * apart + 0.25 * cross_entropy(whole, labels)
    assert told["loss"] == pytest.approx(float(want), abs=1e-5)
    assert told["distillation"] == pytest.approx(0.5 * float(apart), abs=1e-6)
    assert told["full_loss"] == pytest.approx(0.25 * float(cross_entropy(whole, labels)), abs=1e-5)


@pytest.mark.parametrize("slug", METHODS)
@pytest.mark.parametrize("more", [{"micro_batch": 2}, {"checkpointing": True}])
def test_however_a_batch_is_computed(card, tmp_path, slug, more):
    whole = logged(run(card(**changes(slug)), tmp_path / "whole"))
    other = logged(run(card(**changes(slug, **more)), tmp_path / "other"))
    for name in ("loss", "distillation", "full_loss"):
        assert other[name] == pytest.approx(whole[name], abs=1e-5), name
    one, two = (small.weights(tmp_path / name) for name in ("whole", "other"))
    assert all(torch.allclose(one[n], two[n], atol=3e-3) for n in one)


def test_a_scorer_is_taught_where_the_answers_look(card, tmp_path):
    """Its weight falls to nothing over training; a batch of text alone has nothing to look at."""
    taught = changes("fovea", steps=4, distill=0.0, full=0.0, attend=1.0, attention="eager")
    history = run(card(**taught), tmp_path / "taught")["history"]
    looking = [entry["looking"] for entry in history if "loss" in entry]
    some = [share for share in looking if share]
    assert len(some) > 1 and some[0] > some[-1] > 0
    assert "looking" not in logged(run(card(**changes("fovea", distill=0, full=0)), tmp_path / "a"))
    with pytest.raises(ValueError, match=r"attend=1 reads whole .* want attention='eager'"):
        card(attend=1.0)
    with pytest.raises(ValueError, match="learns nothing of that"):
        run(card(**changes("stride", attend=1.0, attention="eager")), tmp_path / "b")


def test_keeping_all_there_is_nothing_to_learn_from(card, tmp_path):
    told = logged(run(card(steps=1, distill=1.0), tmp_path / "out"))
    assert told["distillation"] == pytest.approx(0.0, abs=1e-7)


def stop(step: int, steps: int, now: str) -> None:
    if step == 3:
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_goes_on_to_the_same(card, tmp_path, unbroken):
    """The draws of its budgets, and the terms that are logged."""
    own = changes("fovea", steps=4, save_every=2)
    whole, document = unbroken(**own)
    with pytest.raises(KeyboardInterrupt):
        run(card(**own), tmp_path / "a", advance=stop)
    again = run(card(**own), tmp_path / "a", resume=True)
    assert small.losses(again) == small.losses(document)
    after = small.weights(tmp_path / "a")
    assert all(torch.equal(tensor, after[name]) for name, tensor in small.weights(whole).items())


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo is not built in")
@pytest.mark.parametrize("slug", ["fovea"])
def test_on_two_ranks(card, tmp_path, slug):
    recipe = card(**changes(slug), micro_batch=2)
    done = small.foveate("train", *small.words(recipe), "--out", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr
    two = logged(json.loads((tmp_path / "two" / "training.json").read_text()))
    one = logged(run(card(**changes(slug)), tmp_path / "one"))
    for name in ("loss", "distillation", "full_loss"):
        assert two[name] == pytest.approx(one[name], abs=1e-5), name
