"""Epochs: every record, fresh orders, batches of one modality."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.train.data import Grouped, Shuffled


def epoch(order, n: int = 0) -> list[int]:
    order.set_epoch(n)
    return list(order)


def test_epochs_differ_and_come_again():
    for order in (Shuffled(50, 8, seed=3), Grouped([True] * 30 + [False] * 20, 8, seed=3)):
        first, second = epoch(order, 0), epoch(order, 1)
        assert first != second and epoch(order, 0) == first and list(order) == first
    assert epoch(Shuffled(50, 8, seed=4)) != epoch(Shuffled(50, 8, seed=3))


def test_a_files_own_order():
    assert epoch(Shuffled(5, 2, shuffle=False), 7) == [0, 1, 2, 3, 4, 0]
    assert epoch(Shuffled(2, 8, shuffle=False)) == [0, 1] * 4


@settings(deadline=None, derandomize=True)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 3))
def test_batches_are_of_one_modality(has_images, batch, seed):
    order = Grouped(has_images, batch, seed)
    drawn = epoch(order, seed)
    images = [i for i, has in enumerate(has_images) if has]
    text = [i for i, has in enumerate(has_images) if not has]
    assert len(drawn) == len(order) == sum(-(-len(k) // batch) * batch for k in (images, text))
    for k in range(0, len(drawn), batch):
        assert len({has_images[i] for i in drawn[k : k + batch]}) == 1
    for kind in (images, text):  # none left out, none much more often than another
        times = Counter(i for i in drawn if i in kind)
        assert set(times) == set(kind)
        assert not kind or max(times.values()) - min(times.values()) <= 1


def test_the_order_of_batches_is_drawn_too():
    """Not first all images and then all text."""
    has_images = [True] * 64 + [False] * 64
    kinds = [has_images[i] for i in epoch(Grouped(has_images, 8))[::8]]
    assert Counter(kinds) == {True: 8, False: 8}
    assert 4 <= sum(a != b for a, b in pairwise(kinds)) <= 13


@pytest.mark.parametrize("wrong", [lambda: Shuffled(0), lambda: Grouped([], 4)])
def test_nothing_has_no_order(wrong):
    with pytest.raises(ValueError, match="n=0"):
        wrong()
    with pytest.raises(ValueError, match="batch=0"):
        Grouped([True], 0)
