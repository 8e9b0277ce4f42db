"""Small random models and batches; everything a test needs is made here, nothing is downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from families import FAMILIES

torch.set_num_threads(1)


READY = ["llava"]  # the families that the host supports


@pytest.fixture(params=READY)
def family(request):
    """One of the model families, with the batches its processor would make."""
    return FAMILIES[request.param]


@pytest.fixture(params=["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def attention(request):
    return request.param


@pytest.fixture
def model(family, attention):
    return family.model(attention)
