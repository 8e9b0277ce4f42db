"""Methods by name: compress(model, "fastv", keep=0.25); and how compressors name themselves, in one line."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from families import FAMILIES, ONE, TWO

import foveate
from foveate import (
    METHODS,
    Chain,
    FastV,
    Identity,
    LLaVASTF,
    Pool,
    Random,
    Stages,
    Stride,
    Support,
    VisionZip,
    focusllava,
    layerwise,
    llava_stf,
    llavolta,
    meteor,
    sized,
)


@pytest.fixture
def model():
    return FAMILIES["llava"].model()


@pytest.mark.parametrize("slug", METHODS)
def test_every_method_by_its_name_has_the_models_sizes(model, slug):
    """The bare name, in place; the same method as `sized` makes, at the positions asked for."""
    torch.manual_seed(0)
    assert foveate.compress(model, slug) is model
    want = sized(METHODS[slug], FAMILIES["llava"].model())
    assert repr(model.model.visual_compressor) == repr(want)
    foveate.compress(model, slug, "renumbered")
    assert model.config.visual_compression["positions"] == "renumbered"
    assert foveate.support(model, slug).works


@torch.no_grad()
def test_arguments_stand_beside_the_name(model):
    inputs = FAMILIES["llava"].inputs((ONE,))
    foveate.compress(model, "fastv", keep=0.25, layer=3)
    assert repr(model.model.visual_compressor) == "FastV(keep=0.25, layer=3)"
    with foveate.compressed(model, "stride", keep=3) as inner:
        assert inner is model
        model(**inputs)
        assert foveate.last_counts(model) == [3]
    assert repr(model.model.visual_compressor) == "FastV(keep=0.25, layer=3)"
    foveate.restore(model)
    with foveate.compressed(model, "pool", "renumbered", stride=8):
        model(**inputs)
        assert foveate.last_counts(model) == [2]
    assert not foveate.is_compressed(model)
    assert foveate.support(model, "fastv", keep=4, layer=3).sites == ("language 3",)
    why = foveate.support(model, "fastv", layer=9).why
    assert "decoder layers 0 to 4" in why
    qwen = FAMILIES["qwen2_5_vl"].model()
    assert "projected=True" in foveate.support(qwen, "visionzip", keep=4).notes[0]
    assert not foveate.support(qwen, "visionzip", projected=False).works


WRONG = [
    (("fastvv",), {}, ValueError, "no method 'fastvv': nearest: fastv; `foveate methods` lists"),
    (("FastV",), {}, ValueError, "nearest: fastv"),
    (("divprume",), {"keep": 4}, ValueError, "nearest: divprune"),
    (("?",), {}, ValueError, "no method '?': there are identity"),
    (("fastv(keep=0.5)",), {}, ValueError, r"beside the name: compress(model, 'fastv', …)"),
    (("fastv",), {"kep": 4}, TypeError, "no argument 'kep': nearest: keep; there are keep, layer"),
    (("fastv",), {"keep": 0}, ValueError, "keep=0: want an int >= 1"),
    (("pool",), {"keep": 0.25, "stride": 4}, ValueError, "say the same thing: give one"),
    (("fastv", 0.25), {}, ValueError, "goes by name, compress(model, 'fastv', keep=0.25)"),
    (("fastv", "new"), {}, ValueError, "positions='new': want one of original, renumbered"),
    ((FastV,), {}, TypeError, "got FastV itself: call it, foveate.sized(FastV, model, keep=…)"),
    ((FastV,), {"keep": 4}, TypeError, "foveate.sized(FastV, model, keep=4)"),
    ((focusllava,), {"keep": 0.5}, TypeError, "foveate.sized(focusllava, model, keep=0.5)"),
    ((FastV(4),), {"keep": 0.5}, TypeError, "method.but(keep=0.5)"),
    ((None,), {}, TypeError, "want a foveate.Compressor"),
    ((["fastv"],), {}, TypeError, "want a foveate.Compressor"),
]


@pytest.mark.parametrize(
    ("given", "more", "error", "says"), WRONG, ids=[says for *_, says in WRONG]
)
def test_what_is_no_method_says_what_to_write(model, given, more, error, says):
    for call in (foveate.compress, lambda *a, **k: foveate.compressed(*a, **k).__enter__()):
        with pytest.raises(error) as seen:
            call(model, *given, **more)
        assert says in str(seen.value)
        assert not foveate.is_compressed(model)
    if error is ValueError and "no method" in says:
        with pytest.raises(error, match="no method"):
            foveate.support(model, *given, **more)


NAMED = {
    "focusllava(keep=0.5)": lambda: focusllava(keep=0.5),
    "focusllava(keep=0.25)": lambda: focusllava(np.float32(0.25)),
    "focusllava()": focusllava,
    "focusllava(only='text', layer=3)": lambda: focusllava(only="text", layer=3),
    "meteor(keep=64)": lambda: meteor(64, width=8, feature_width=8),
    "layerwise()": layerwise,
    "llavolta(schedule='two_stage')": lambda: llavolta("two_stage"),
    "llavolta(schedule='heavy')": lambda: llavolta(schedule="heavy"),
    "llava_stf(window=3, only='stf')": lambda: llava_stf(window=3, only="stf", width=8),
    "FastV(keep=4, layer=2)": lambda: FastV(4),
    "Identity()": Identity,
    "Stride(keep=8, layer=0) + FastV(keep=0.5, layer=2)": lambda: Chain(Stride(8), FastV(0.5)),
    "Stages((0.5, layerwise()), (1.0, Identity()))": lambda: Stages(
        (0.5, layerwise()), (1, Identity())
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_compressor_names_itself_as_it_was_written(name):
    method = NAMED[name]()
    assert str(method) == f"{method}" == name
    assert str(copy.deepcopy(method)) == str(pickle.loads(pickle.dumps(method))) == name


def test_sizes_that_a_model_gives_are_no_part_of_the_name(model):
    assert str(sized(focusllava, model, keep=0.5)) == "focusllava(keep=0.5)"
    foveate.compress(model, "focusllava", keep=0.5)
    assert str(model.model.visual_compressor) == "focusllava(keep=0.5)"
    assert str(model.model.visual_compressor.but(keep=3)) == "focusllava(keep=0.5).but(keep=3)"
    weighted = sized(LLaVASTF, model)
    assert "\n" in repr(weighted) and "\n" not in str(weighted)


@pytest.mark.parametrize("given", ["fastv", FastV, 3])
def test_where_a_compressor_is_wanted_a_name_is_refused_with_the_way_out(given):
    with pytest.raises(TypeError, match=r"want a foveate\.Compressor.*leave it out.*compress\("):
        foveate.from_pretrained("out", given)
    with pytest.raises(TypeError, match=r"want a foveate\.Compressor.*sized\("):
        foveate.as_published(given)


def test_the_record_of_a_run_is_what_it_was():
    """repr is what result files hold and what resuming compares; a name changes neither, nor the config."""
    assert repr(layerwise()) == repr(Chain(*layerwise().parts()))
    assert repr(focusllava(keep=0.5)) == repr(Chain(*focusllava(keep=0.5).parts()))
    assert layerwise().arguments() == {} and "layerwise" not in repr(layerwise())


@torch.no_grad()
def test_traces_and_support_in_one_line(model):
    family = FAMILIES["llava"]
    foveate.compress(model, Chain(VisionZip(8), FastV(0.5, layer=2)))
    with foveate.trace(model) as seen:
        assert str(seen) == repr(seen) == "Trace(no prefill yet)"
        model(**family.inputs((TWO,)))
    line = "features: 16 → 8, 16 → 8; language 2: 8 → 4, 8 → 4"
    assert str(seen) == repr(seen) == f"Trace({line})"
    assert str(seen.steps[1]) == "language 2: 8 → 4, 8 → 4"
    assert repr(seen.steps) == "[Step(features: 16 → 8, 16 → 8), Step(language 2: 8 → 4, 8 → 4)]"
    with foveate.trace(model) as seen:
        for _ in range(3):
            model(**family.inputs((TWO, TWO, ONE)))
    assert "\n" not in str(seen) and len(str(seen)) < 400
    assert "16 → 8, 16 → 8, 16 → 8, 16 → 8, … 5 in all" in str(seen.steps[0])
    assert str(seen).endswith("… 6 in all)")
    assert str(foveate.support(model, Random(4))) == "works at language 0"
    assert str(foveate.support(model, FastV(4))).startswith("works at language 2; reads the instr")
    why = str(foveate.support(model, FastV(4, layer=9)))
    assert why.startswith("does not work at language 9: FastV at language 9: ") and "0 to 4" in why
    assert str(Support((), works=False, why="too small")) == "does not work: too small"
    assert str(foveate.support(model, Pool(4, dims=2))) == "works at language 0"
