"""Sliding windows shorter than the prompt: dropping is still masking, in prefill and decoding.

A window counts columns of the language model's input, kept or dropped.
"""

from __future__ import annotations

import pytest
import torch
from families import ONE, SHORT, TWO, Gemma3, Llava
from families.family import text
from oracle import reference, seen_columns
from transformers import AutoConfig

import foveate
from foveate import Chain, FastV, Pool, Stride


class Narrow(Gemma3):
    """Gemma 3 whose layers 0, 2 and 4 look back no further than 12 columns."""

    window = 12


class EveryLayer(Llava):
    """LLaVA on a Mistral whose layers all look back no further than 12 columns."""

    def config(self):
        config = super().config()
        config.text_config = AutoConfig.for_model(**text("mistral", sliding_window=12))
        return config


METHODS = {
    "fastv": lambda: FastV(0.25),
    "stride inside": lambda: Stride(5, layer=1),
    "pool inside": lambda: Pool(4, layer=2),
    "two cuts": lambda: Chain(FastV(0.5, layer=1), Pool(2, layer=3)),
}
PROMPTS = (ONE, SHORT, TWO)


def close(got, want):
    error = (got - want).abs().max() / want.abs().max()
    assert error <= 1e-5, f"off by {error:.2e} of the scale"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("narrow", [Narrow(), EveryLayer()], ids=["gemma3", "mistral"])
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_a_window_counts_what_was_dropped(name, narrow, attention):
    family = narrow
    model = family.model(attention)
    inputs = family.inputs(PROMPTS)
    length = inputs["input_ids"].shape[1]
    stands = family.stands(PROMPTS, inputs["input_ids"])
    foveate.compress(model, METHODS[name]())
    with foveate.trace(model) as seen:
        logits = model(**inputs).logits
        prefilled = list(seen.steps)
        out = model.generate(
            **inputs,
            max_new_tokens=14,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    foveate.restore(model)
    want = reference(model, stands, inputs, prefilled).logits
    columns = seen_columns(stands, inputs, prefilled)
    close(logits[columns], want[columns])
    whole = family.longer(inputs, out.sequences[:, :-1])
    whole |= family.positions(whole)
    want = reference(model, stands, whole, prefilled).logits[:, length - 1 :]
    close(torch.stack(out.logits, dim=1), want)


def test_where_no_mask_can_say_so_it_is_refused():
    family = Narrow()
    model = foveate.compress(family.model(), FastV(0.25))
    with pytest.raises(NotImplementedError, match="sliding window of 12"):
        model.generate(
            **family.inputs(PROMPTS),
            max_new_tokens=3,
            cache_implementation="static",
            disable_compile=True,
        )


@pytest.mark.parametrize("method", [FastV(1.0), Pool(1, layer=2)], ids=str)
@torch.no_grad()
def test_where_nothing_is_dropped_nothing_is_refused(method):
    family, model = Narrow(), Narrow().model()
    asked = {"max_new_tokens": 3, "cache_implementation": "static", "disable_compile": True}
    asked |= family.inputs(PROMPTS)
    want = model.generate(**asked, do_sample=False)
    foveate.compress(model, method)
    assert torch.equal(model.generate(**asked, do_sample=False), want)
