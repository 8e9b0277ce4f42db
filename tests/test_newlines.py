"""`compress(…, newlines="none")`: those of joined tiles leave, as in the papers' code for LLaVA-NeXT."""

from dataclasses import replace

import pytest
import torch
from calling import close, decoded, logits
from families import FAMILIES, ONE
from oracle import reference, seen_columns

import foveate
from foveate import Chain, FastV, Identity, Pool, Stride
from foveate.hosts import cost

FULL = pytest.mark.full
TILED = ["llava_next", pytest.param("llava_onevision", marks=FULL)]
METHODS = {
    "before": lambda: Stride(10),
    "inside": lambda: FastV(0.4, layer=2),
    "both": lambda: Chain(Stride(12), FastV(0.5, layer=2)),
    "inside twice": lambda: Chain(FastV(0.5, layer=1), Pool(2, layer=3)),
    "all, before": Identity,
    "all, inside": lambda: FastV(1.0, layer=3),
    "all, then some": lambda: Chain(FastV(1.0, layer=1), FastV(0.5, layer=3)),
}


def without(stands):
    """Where images stand, their newlines closing rows that nobody stands in."""
    nobody = range(-1, 0)
    return [replace(s, newlines=[(column, nobody) for column, _ in s.newlines]) for s in stands]


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("positions", ["original", pytest.param("renumbered", marks=FULL)])
@torch.no_grad()
def test_it_is_hiding_them_from_the_first_step_on(name, method, positions):
    """The bare model with masks, in a mixed batch; and decoding, from a cache and without one."""
    family = FAMILIES[name]
    model = family.model()
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        length = inputs["input_ids"].shape[1]
        foveate.compress(model, METHODS[method](), positions, newlines="none")
        with foveate.trace(model) as seen:
            sequences, later = decoded(model, inputs, 3)
        got = logits(model, inputs, **family.positions(inputs))
        foveate.restore(model)
        whole = family.longer(inputs, sequences[:, :-1])
        whole |= family.positions(whole)
        stands = without(family.stands(prompts, inputs["input_ids"]))
        want = reference(model, stands, whole, seen.steps, positions == "renumbered").logits
        columns = seen_columns(stands, inputs, seen.steps)
        close(got[columns], want[:, :length][columns], 2e-5)
        close(later, want[:, length - 1 :], 2e-5)


@pytest.mark.parametrize("newlines", ["rows", "none"])
def test_columns_are_counted(newlines):
    """64 patches of 2 × 2 tiles and 8 newlines behind a view of 16: in the cache, and as a prefill costs."""
    family, prompts, rows = FAMILIES["llava_next"], (ONE, ONE), newlines == "rows"
    inputs = family.single(family.inputs(prompts), prompts, 1)
    text = int((inputs["input_ids"] != family.image_id).sum())
    model = foveate.compress(family.model(), FastV(16, layer=2), newlines=newlines)
    with torch.no_grad():
        cache = model(**inputs).past_key_values
    early, late = cache.layers[1].keys.shape[2] - text, cache.layers[2].keys.shape[2] - text
    assert early == 88 and (16 < late <= 24 if rows else late == 16)
    for method, visual in ((Identity(), 88 if rows else 80), (Stride(0.25), 28 if rows else 20)):
        foveate.compress(model, method, newlines=newlines)
        load = cost.watch(model, text, lambda: model(**inputs))
        assert load.visual == (visual,) * family.layers
        assert cost.cost(model, load).equivalent_tokens == visual
        assert sum(foveate.last_counts(model)) == visual - 8 * rows


def test_it_is_saved_with_the_model_and_goes_with_its_block(tmp_path):
    family = FAMILIES["llava_next"]
    model, inputs = family.model(), family.inputs()
    bare = logits(model, inputs)
    with foveate.compressed(model, Stride(8), newlines="none"):
        want = logits(model, inputs)
        model.save_pretrained(tmp_path)
        with foveate.compressed(model, Stride(8)):
            assert not torch.equal(logits(model, inputs), want)
        assert torch.equal(logits(model, inputs), want)
    assert torch.equal(logits(model, inputs), bare)
    back = foveate.from_pretrained(tmp_path)
    assert back.config.visual_compression["newlines"] == "none"
    assert torch.equal(logits(back, inputs), want)
    foveate.compress(model, Stride(8))
    assert "newlines" not in model.config.visual_compression


def test_models_without_newlines_and_other_words():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs()
    want = logits(foveate.compress(model, Stride(8)), inputs)
    foveate.compress(model, Stride(8), newlines="none")
    assert torch.equal(logits(model, inputs), want)
    with pytest.raises(ValueError, match="newlines='all': want one of rows, none"):
        foveate.compress(model, Stride(8), newlines="all")
