"""When something breaks in the middle of a call, and when many call at once."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from calling import fingerprint, greedy, last_words, logits
from families import MIXED, ONE, SHORT, TWO
from probes import Ragged, asked

import foveate
from foveate import Chain, FastV, Pool, Stride
from foveate.hosts.traits import decoder_of, tower_of

ATTACHED = {
    "stride": lambda: Stride(4),
    "ragged": lambda: Ragged(),
    "three cuts": lambda: Chain(Stride(12), FastV(0.5, layer=1), Pool(2, layer=3)),
}


@pytest.fixture(
    params=[pytest.param(n, marks=pytest.mark.slow if n != "three cuts" else ()) for n in ATTACHED]
)
def method(request):
    return ATTACHED[request.param]()


class BrokenError(Exception):
    """What no library raises."""


class Fuse:
    """A hook that fails at its n-th call."""

    def __init__(self, at: int = 1):
        self.left = at

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            raise BrokenError


PLACES = {
    "the tower": lambda m: tower_of(m.model),
    "the compressor": lambda m: m.model.visual_compressor.parts()[-1],
    "the first layer": lambda m: decoder_of(m.model).layers[0],
    "the layer before a cut": lambda m: decoder_of(m.model).layers[2].self_attn,
    "the last layer": lambda m: decoder_of(m.model).layers[-1].mlp,
    "the head": lambda m: m.lm_head,
}


def answers(model, inputs) -> tuple:
    """Logits and a text."""
    return logits(model, inputs), greedy(model, inputs, 4)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("place", PLACES)
def test_the_call_after_a_failure_is_right(model, family, method, place):
    inputs, other = family.inputs((ONE, TWO)), family.inputs((SHORT, ONE), seed=5)
    bare = answers(model, inputs)
    before = fingerprint(model)
    foveate.compress(model, method)
    want, elsewhere = answers(model, inputs), answers(model, other)
    attached = fingerprint(model)
    broken = PLACES[place](model)
    calls = [lambda: model(**inputs), lambda: greedy(model, inputs, 4)]
    if place != "the head":
        calls.append(lambda: model.model(**inputs))
    for call in calls:
        handle = broken.register_forward_hook(Fuse())
        with pytest.raises(BrokenError):
            call()
        handle.remove()
        assert fingerprint(model) == attached
        assert same(answers(model, other), elsewhere) and same(answers(model, inputs), want)
    foveate.restore(model)
    assert fingerprint(model) == before
    assert same(answers(model, inputs), bare)


@pytest.mark.parametrize("place", ["the first layer", "the last layer"])
def test_a_failure_while_decoding(model, family, method, place):
    """The third token fails: prefill and cache were there already."""
    inputs = family.inputs((ONE, TWO))
    foveate.compress(model, method)
    want = answers(model, inputs)
    handle = PLACES[place](model).register_forward_hook(Fuse(at=3))
    with pytest.raises(BrokenError):
        greedy(model, inputs, 4)
    handle.remove()
    assert same(answers(model, inputs), want)


def test_a_failure_in_the_backward_pass(model, family, method):
    inputs = family.inputs((ONE, TWO))
    foveate.compress(model, method)

    def step():
        model.zero_grad()
        loss = model(**inputs, labels=last_words(inputs)).loss
        loss.backward()
        return [loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    want = step()
    handle = decoder_of(model.model).layers[1].register_full_backward_hook(Fuse())
    with pytest.raises(BrokenError):
        step()
    handle.remove()
    assert same(step(), want)


def test_a_failed_trace_ends(model, family):
    inputs = family.inputs((ONE,))
    foveate.compress(model, Stride(4))
    handle = decoder_of(model.model).layers[0].register_forward_hook(Fuse())
    with pytest.raises(BrokenError), foveate.trace(model) as seen:
        model(**inputs)
    handle.remove()
    model(**inputs)
    assert seen.steps == [] and model.model.visual_attachment.traces == []


def test_one_of_six_threads_fails_and_five_do_not_notice(model, family, method):
    """Each with prompts of its own, over and over, equal to one after another."""
    foveate.compress(model, method)
    choices = [(ONE, SHORT), (SHORT, ONE), (TWO,), MIXED, (ONE, TWO), (SHORT,)]
    batches = [family.inputs(p, seed=s) for s, p in enumerate(choices)]
    want = [greedy(model, batch, 4) for batch in batches]
    batches[0]["input_ids"] = batches[0]["input_ids"].clone()
    batches[0]["input_ids"][:, -1] = family.image_id  # one placeholder too many
    got, start = [[] for _ in batches], threading.Barrier(6)

    def work(i):
        start.wait()
        for _ in range(3):
            try:
                got[i].append(greedy(model, batches[i], 4))
            except Exception as error:
                got[i].append(error)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    failed, *others = got
    assert len(failed) == 3 and all(isinstance(error, Exception) for error in failed)
    for mine, right in zip(others, want[1:], strict=True):
        assert len(mine) == 3 and all(torch.equal(x, right) for x in mine)


def test_a_copy_of_a_used_model(model, family):
    """After calls, with the hooks transformers left behind."""
    inputs = family.inputs((ONE, TWO))
    foveate.compress(model, Chain(asked(family), FastV(3, layer=2)))
    want = answers(model, inputs)
    other = copy.deepcopy(model)
    assert same(answers(other, inputs), want)
    foveate.restore(other)
    bare = family.model(model.config._attn_implementation)
    assert same(answers(other, inputs), answers(bare, inputs))
    assert same(answers(model, inputs), want)
