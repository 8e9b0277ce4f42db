"""Layer-wise pooling, a baseline of LLaVolta's paper, arXiv:2406.20092."""

import pytest

from foveate import layerwise


def sites(method):
    return [part.site.layer for part in method.parts()]


@pytest.mark.parametrize(
    ("layers", "want"),
    [(32, [4, 12, 24]), (40, [5, 15, 30]), (5, [1, 2, 4]), (3, [1, 1, 2]), (2, [1, 1, 1])],
)
def test_three_poolings_of_stride_two_at_the_papers_layers(layers, want):
    """Those of 32 layers; other depths scale, and stay inside the model."""
    method = layerwise(layers=layers)
    assert sites(method) == want and [part.stride for part in method.parts()] == [2, 2, 2]


def test_budgets_are_what_the_last_layers_see():
    assert [p.stride for p in layerwise(keep=1 / 27).parts()] == [3, 3, 3]
    for keep in (0.25, 72):
        with pytest.raises(ValueError, match=r"1, 0\.125, 0\.037"):
            layerwise(keep=keep)
    with pytest.raises(ValueError, match="layers=1"):
        layerwise(layers=1)
