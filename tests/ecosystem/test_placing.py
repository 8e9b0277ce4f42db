"""Weights that are elsewhere or otherwise: offloaded to CPU and disk, quantised."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from calling import greedy, logits, traced
from families import LAYERS, ONE, TWO
from probes import Replay, asked, zipped
from torch import nn

import foveate
from foveate import DART, Chain, FastV, Pool, PyramidDrop
from foveate.hosts.traits import decoder_of, tower_of

METHODS = {
    "zipped": lambda family: zipped(family, 4),
    "fastv": lambda family: FastV(0.25, layer=2),
    # With weights of its own, which must not be lost to "meta".
    "three sites": lambda family: Chain(asked(family), FastV(0.5, layer=2), Pool(2, layer=3)),
}
# generate warns that ids are on the CPU and the model on "meta", where offloaded weights wait.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You are calling .generate.. with the .input_ids."),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),  # deprecated; works
]


@pytest.fixture(params=METHODS)
def method(request, family):
    return lambda: METHODS[request.param](family)


def answers(model, inputs):
    return logits(model, inputs), greedy(model, inputs, 4)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def mixed_map(model) -> dict:
    """Every module on the CPU, but for decoder layers 1 and 3, which are on disk."""
    name = next(n for n, m in model.named_modules() if m is decoder_of(model.model))
    inner = [f"{name}.{n}" for n, _ in model.get_submodule(name).named_children() if n != "layers"]
    beside = [f"model.{n}" for n, _ in model.model.named_children() if f"model.{n}" != name]
    layers = {f"{name}.layers.{i}": "disk" if i in (1, 3) else "cpu" for i in range(LAYERS)}
    return dict.fromkeys([*beside, *inner, "lm_head"], "cpu") | layers


def offload(model, how: str, folder):
    if how == "cpu":
        return cpu_offload(model)
    if how == "disk":
        return disk_offload(model, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # accelerate finds no GPU, and says so
        return dispatch_model(
            model, mixed_map(model), main_device="cpu", offload_dir=folder, force_hooks=True
        )


@pytest.mark.parametrize("first", ["compressed", "offloaded"])
@pytest.mark.parametrize("how", ["cpu", "disk", "some on disk"])
def test_offloaded_weights_are_the_same_weights(model, family, method, tmp_path, how, first):
    """Either order: accelerate's hooks move what a call needs, and replace `forward`."""
    if not family.offloads:
        pytest.skip("the bare model does not generate with its weights offloaded")
    inputs = family.inputs((ONE, TWO))
    foveate.compress(model, method())
    want, counts = answers(model, inputs), foveate.last_counts(model)
    away = family.model(model.config._attn_implementation)
    if first == "compressed":
        away = offload(foveate.compress(away, method()), how, tmp_path)
    else:
        away = foveate.compress(offload(away, how, tmp_path), method())
    assert any(p.is_meta for p in decoder_of(away.model).layers[1].parameters())
    assert same(answers(away, inputs), want)
    assert foveate.last_counts(away) == counts
    foveate.restore(away)
    bare = family.model(model.config._attn_implementation)
    assert same(answers(away, inputs), answers(bare, inputs))


@pytest.mark.parametrize("how", ["cpu", "some on disk"])
def test_offloaded_layers_and_norms_can_be_asked_before_they_run(model, family, tmp_path, how):
    if not family.offloads:
        pytest.skip("the bare model does not generate with its weights offloaded")
    inputs = family.inputs((ONE, TWO))
    method = Chain(DART(6, layer=1), PyramidDrop(3, layer=3))
    want = answers(foveate.compress(model, method), inputs)
    away = foveate.compress(family.model(model.config._attn_implementation), method.but(words=4))
    assert same(answers(offload(away, how, tmp_path), inputs), want)


def test_a_device_map_while_loading(model, family, method, tmp_path):
    """`foveate.from_pretrained(…, device_map=…)`, as people load models that do not fit."""
    inputs = family.inputs((ONE, TWO))
    foveate.compress(model, method())
    want = answers(model, inputs)
    model.save_pretrained(tmp_path)
    back = foveate.from_pretrained(tmp_path, method=method(), device_map={"": "cpu"})
    back.set_attn_implementation(model.config._attn_implementation)
    back.generation_config.eos_token_id = None
    assert foveate.is_compressed(back)
    assert same(answers(back, inputs), want)


def quantised(model, *more):
    """int8 linears in the decoder and in further parts, by torch's own dynamic quantisation."""
    for part in (decoder_of(model.model), *more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.ao.quantization.quantize_dynamic(part, {nn.Linear}, torch.qint8, inplace=True)
        kinds = [type(m).__module__ for m in part.modules() if "Linear" in type(m).__name__]
        assert len(kinds) >= 4 * 4 and all("quantized" in k for k in kinds)
    return model


@pytest.mark.parametrize("first", ["compressed", "quantised"])
def test_quantised_linears(model, family, method, first):
    """Each linear is a packed object without a weight; nothing may look for one."""
    inputs, plain = family.inputs((ONE, TWO)), copy.deepcopy(model)
    foveate.compress(plain, method())
    with torch.no_grad():
        steps = traced(plain, inputs)[1]
        counts = foveate.last_counts(plain)
        if first == "compressed":
            small = quantised(foveate.compress(model, method()))
        else:
            small = foveate.compress(quantised(model), method())
        got, seen = traced(small, inputs)
        assert foveate.last_counts(small) == counts
        if isinstance(made := method(), FastV):
            # Of two tokens that are looked at nearly alike, int8 may take the other: both are given the same.
            one, other = (step.scores.nan_to_num() for step in (steps[0], seen[0]))
            assert torch.cosine_similarity(one, other, dim=1).min() > 0.99
            foveate.compress(plain, Replay(made.site, seen[0].owner))
        want = logits(plain, inputs)
    # Not the same numbers, but nearly: int8 costs a little, and a wrong token would cost all.
    likeness = torch.cosine_similarity(got.logits.flatten(), want.flatten(), dim=0)
    assert likeness > 0.98 and not torch.equal(got.logits, want)
    assert greedy(small, inputs, 4).shape == greedy(plain, inputs, 4).shape


def test_quantised_and_keeping_all_is_the_quantised_model(model, family):
    inputs = family.inputs((ONE, TWO))
    small = quantised(model, tower_of(model.model))
    want = answers(small, inputs)
    inside = (FastV(1.0, layer=2), DART(1.0), PyramidDrop(1.0, layer=3))
    with foveate.compressed(small, Chain(zipped(family, 1.0), *inside)):
        assert same(answers(small, inputs), want)
