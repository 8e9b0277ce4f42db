"""Small random models and batches; everything a test needs is made here, nothing is downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from zlib import crc32

import pytest
import torch
from families import FAMILIES

torch.set_num_threads(1)
# Odd, so that a family meets both kernels, both paddings and both kinds of positions.
EVERY_NTH = 23
EAGER_NTH = 6  # of Llava's, whose cases all run with sdpa
QUICK_NTH = 3
QUICK_PART = 4  # of all quick tests, in turn: two minutes
WHOLE = {"test_sight", "test_families"}  # cheap: every family, every case
COMPILED = "test_compile"  # dear: a minute each
# What stands around a model (trainers, adapters, threads) knows no family: each test takes a third of them.
AROUND, AROUND_NTH = "ecosystem", 3


def pytest_collection_modifyitems(items):
    """`make test` covers every method × some family and every family × some method, in each test.

    Llava runs everything with sdpa, a sixth of it eagerly, and alone what is compiled. Of the other
    families every 23rd case stays, at least one of each test and different ones in each family, but for tests
    of what stands around a model, which take other families in turn; the rest is for `make test-full`. Of
    what stays, a third is quick; and of everything that is quick every fourth case is asked first.
    """
    cases: dict[tuple, list] = {}
    for item in items:
        call = getattr(item, "callspec", None)
        name = call.params.get("family") if call else None
        thinned = name != "llava" or call.params.get("attention") == "eager"
        if name in FAMILIES and thinned and item.module.__name__ not in WHOLE:
            test = f"{item.module.__name__}.{item.originalname}"
            if item.get_closest_marker("full") is None:
                cases.setdefault((test, name), []).append(item)
    for (test, name), mine in cases.items():
        turn = crc32(test.encode()) + sorted(FAMILIES).index(name)
        nth = EAGER_NTH if name == "llava" else EVERY_NTH
        around = name != "llava" and AROUND in mine[0].path.parts and turn % AROUND_NTH
        for n, item in enumerate(mine):
            if around or (n + turn) % min(nth, len(mine)) or test.startswith(COMPILED):
                item.add_marker(pytest.mark.full)
            elif (n // EVERY_NTH + turn) % QUICK_NTH:
                item.add_marker(pytest.mark.slow)
    for n, item in enumerate(items):
        if n % QUICK_PART:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    """One of the model families, with the batches its processor would make."""
    return FAMILIES[request.param]


@pytest.fixture(params=["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def attention(request):
    return request.param


@pytest.fixture
def model(family, attention):
    return family.model(attention)
