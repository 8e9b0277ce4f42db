"""Sliding windows shorter than the prompt: dropping is still masking, in prefill and decoding.

A window counts columns of the language model's input, kept or dropped.
"""

from __future__ import annotations

import pytest
import torch
from calling import close, decoded, generated, traced
from families import ONE, SHORT, TWO, Gemma3, Llava
from families.family import text
from oracle import reference, seen_columns
from transformers import AutoConfig

import foveate
from foveate import Chain, FastV, Pool, PyramidDrop, Stride


class Narrow(Gemma3):
    """Gemma 3 whose layers 0, 2 and 4 look back no further than 12 columns."""

    window = 12


class EveryLayer(Llava):
    """LLaVA on a Mistral whose layers all look back no further than 12 columns."""

    def config(self):
        config = super().config()
        config.text_config = AutoConfig.for_model(**text("mistral", sliding_window=12))
        return config


PROPORTIONAL = {"attention": "proportional"}
METHODS = {
    "fastv": lambda: FastV(0.25),
    "pyramiddrop": lambda: PyramidDrop(0.25, layer=2),
    "stride inside": lambda: Stride(5, layer=1),
    "pool inside": lambda: Pool(4, layer=2),
    "two cuts": lambda: Chain(FastV(0.5, layer=1), Pool(2, layer=3)),
}
STATIC = {"cache_implementation": "static", "disable_compile": True}
PROMPTS = (ONE, SHORT, TWO)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("narrow", [Narrow(), EveryLayer()], ids=["gemma3", "mistral"])
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_a_window_counts_what_was_dropped(name, narrow, attention):
    model, inputs = narrow.model(attention), narrow.inputs(PROMPTS)
    stands = narrow.stands(PROMPTS, inputs["input_ids"])
    foveate.compress(model, METHODS[name]())
    out, steps = traced(model, inputs)
    sequences, got = decoded(model, inputs, 14)
    foveate.restore(model)
    columns = seen_columns(stands, inputs, steps)
    close(out.logits[columns], reference(model, stands, inputs, steps).logits[columns])
    whole = narrow.longer(inputs, sequences[:, :-1])
    whole |= narrow.positions(whole)
    close(got, reference(model, stands, whole, steps).logits[:, -14:])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("narrow", [Narrow(), EveryLayer()], ids=["gemma3", "mistral"])
@pytest.mark.parametrize("name", ["pool inside", "two cuts"])
@torch.no_grad()
def test_a_window_sees_copies_of_what_was_merged(name, narrow, attention):
    """In columns of the language model's input, a merged token stands once: there windows count it."""
    model, inputs = narrow.model(attention), narrow.inputs(PROMPTS)
    stands = narrow.stands(PROMPTS, inputs["input_ids"])
    with foveate.compressed(model, METHODS[name](), **PROPORTIONAL):
        out, steps = traced(model, inputs)
        sequences, got = decoded(model, inputs, 14)
    columns = seen_columns(stands, inputs, steps)
    want = reference(model, stands, inputs, steps, proportional=True).logits
    close(out.logits[columns], want[columns])
    whole = narrow.longer(inputs, sequences[:, :-1])
    whole |= narrow.positions(whole)
    want = reference(model, stands, whole, steps, proportional=True).logits
    close(got, want[:, -14:])


@pytest.mark.parametrize(
    ("narrow", "how"),
    [(Narrow(), {}), (Narrow(), STATIC), (EveryLayer(), {})],
    ids=["gemma3", "gemma3 static", "mistral"],
)
def test_windows_of_any_cache_weigh_the_same_columns(narrow, how):
    """Merged before the language model: a window's cache holds the last columns alone, or begins anew."""
    model, inputs = narrow.model(), narrow.inputs(PROMPTS)
    foveate.compress(model, Pool(2), **PROPORTIONAL)
    want = generated(model, inputs, 14, use_cache=False)
    close(generated(model, inputs, 14, **how), want, 2e-5)


def test_where_no_mask_can_say_so_it_is_refused():
    model = foveate.compress(Narrow().model(), FastV(0.25))
    with pytest.raises(NotImplementedError, match="sliding window of 12"):
        generated(model, Narrow().inputs(PROMPTS), 3, **STATIC)


@pytest.mark.parametrize("prompts", [(ONE,), PROMPTS])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_static_cache_of_windows_alone_knows_the_first_columns(attention, prompts):
    """Its mask hides them from the last column, and they are real."""
    narrow = EveryLayer()
    model, inputs = narrow.model(attention), narrow.inputs(prompts)
    foveate.compress(model, Stride(4))
    close(generated(model, inputs, 14, **STATIC), generated(model, inputs, 14), 2e-5)


@pytest.mark.parametrize("method", [FastV(1.0), Pool(1, layer=2)], ids=str)
def test_where_nothing_is_dropped_nothing_is_refused(method):
    model, inputs = Narrow().model(), Narrow().inputs(PROMPTS)
    want = generated(model, inputs, 3, **STATIC)
    foveate.compress(model, method)
    assert torch.equal(generated(model, inputs, 3, **STATIC), want)
