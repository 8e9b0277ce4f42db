"""Numbers of numpy are numbers wherever one is taken; truth values of any library are none."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from families import FAMILIES

import foveate
from foveate import METHODS, Identity, KMeans, Pool, Random, Stages, VisionZip
from foveate.core.ops import check_keep, number, whole

BOOLS = [True, np.True_, np.bool_(False), torch.tensor(True)]
GIVEN = {"layer": 3, "layers": 12, "seed": 5, "width": 8, "feature_width": 8, "tower_width": 4}
GIVEN |= {"stride": 2, "hidden": 4, "window": 3, "blocks": 2, "region": 4, "depth": 1, "states": 4}
GIVEN |= {"block": 8, "fine": 2, "dims": 2, "keep": 1.0, "balance": 0.25, "price": 0.5}
GIVEN |= {"temperature": 0.5, "contextual": 0.25}
NUMBERS = [
    pytest.param(slug, name, id=f"{slug}-{name}")
    for slug, make in METHODS.items()
    for name in inspect.signature(make).parameters
    if name in GIVEN and (slug, name) not in [("layerwise", "keep"), ("llavolta", "keep")]
]
SMALL = {"width": 8, "feature_width": 8, "tower_width": 4, "hidden": 4}


def made(slug, **given):
    known = inspect.signature(METHODS[slug]).parameters
    return METHODS[slug](**{n: v for n, v in SMALL.items() if n in known} | given)


def said(method):
    """All arguments, part by part, with their types: what results and config.json record."""
    return [[(n, v, type(v)) for n, v in part.arguments().items()] for part in method.every()]


@pytest.mark.parametrize(("slug", "name"), NUMBERS)
def test_a_number_of_numpy_is_that_number(slug, name):
    value = GIVEN[name]
    kinds = [np.float32, np.float64] if isinstance(value, float) else [np.int32, np.int64, np.uint8]
    plain = made(slug, **{name: value})
    for kind in kinds:
        method = made(slug, **{name: kind(value)})
        assert said(method) == said(plain)
        json.dumps([part.arguments() for part in method.every()])


@pytest.mark.parametrize(("slug", "name"), NUMBERS)
def test_a_truth_value_is_no_number(slug, name):
    for value in BOOLS:
        with pytest.raises(ValueError, match=rf"{name}.*(want|only)"):
            made(slug, **{name: value})


@pytest.mark.parametrize("read", [check_keep, lambda v: whole("n", v), lambda v: number("n", v)])
def test_what_is_read_is_pythons_own(read):
    assert type(read(np.int16(3))) is int
    for value in BOOLS:
        with pytest.raises(ValueError, match="want"):
            read(value)


def test_further_numbers():
    assert Stages((np.float32(0.5), Pool(2)), (np.int64(1), Identity())).until == [0.5, 1.0]
    assert repr(Pool(np.int64(2), dims=np.int8(1))) == "Pool(stride=2, layer=0, dims=1)"
    assert repr(Random(np.float64(0.5))) == "Random(keep=0.5, layer=0, seed=0)"
    assert repr(KMeans(4, temperature=np.float32(0.5))).endswith("temperature=0.5)")
    assert repr(VisionZip(4, np.float32(0.25))).startswith("VisionZip(keep=4, contextual=0.25")
    model = foveate.compress(FAMILIES["llava"].model(), Random(np.int64(3)))
    foveate.set_progress(model, np.int64(3), np.int32(10))
    attachment = model.model.visual_attachment
    assert (attachment.step, attachment.max_steps) == (3, 10) and type(attachment.step) is int
    for value in BOOLS:
        with pytest.raises(ValueError, match="want ints"):
            foveate.set_progress(model, value, 10)
        with pytest.raises(TypeError, match="wants stages"):
            Stages((value, Pool(2)), (1.0, Identity()))
