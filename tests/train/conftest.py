"""One small model and one small set of data for all tests of training."""

from __future__ import annotations

import pytest
import small


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
