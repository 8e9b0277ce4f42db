"""Small random models and batches; everything a test needs is made here, nothing is downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from families import FAMILIES

torch.set_num_threads(1)
EVERY_NTH = 4
ONLY_LLAVA = {"test_attach", "test_malformed", "test_cost"}


def pytest_collection_modifyitems(items):
    """`make test` covers every method × some family and every family × some method, in each test.

    Llava runs everything; of the others every fourth case stays, a different one in each family, and
    the rest is for `make test-full`.
    """
    counted: dict[tuple, int] = {}
    away = []
    for item in items:
        call = getattr(item, "callspec", None)
        name = call.params.get("family") if call else None
        if name is None or name == "llava":
            continue
        if item.module.__name__ in ONLY_LLAVA:
            away.append(item)
            continue
        test = (item.module.__name__, item.originalname, name)
        n = counted[test] = counted.get(test, -1) + 1
        if (n + sorted(FAMILIES).index(name)) % EVERY_NTH:
            item.add_marker(pytest.mark.full)
    items[:] = [item for item in items if item not in set(away)]


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
