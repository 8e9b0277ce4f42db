"""The bare model as a method."""

import pytest

from foveate import Identity


def test_it_has_one_budget():
    assert Identity.keeping(1.0).selects
    for keep in (1, 0.5):
        with pytest.raises(ValueError, match=r"the only budget is 1\.0"):
            Identity.keeping(keep)
