"""One small model and one small set of data for all tests of training."""

from __future__ import annotations

import json

import pytest
import small

from foveate.train import run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a random model."""
    return small.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A JSON file of images and text, answers of all lengths."""
    return small.data_file(tmp_path_factory.mktemp("data"))


@pytest.fixture
def card(model, data):
    """A recipe of six steps, with changes."""
    return lambda **changes: small.card(model, data, **changes)


@pytest.fixture(scope="session")
def unbroken(model, data, tmp_path_factory):
    """The folder of a run that nothing stopped, and its document; each recipe is run once."""
    done = {}

    def find(**changes):
        key = json.dumps(changes, default=str)
        if key not in done:
            out = tmp_path_factory.mktemp("unbroken")
            done[key] = out, run(small.card(model, data, **changes), out)
        return done[key]

    return find
