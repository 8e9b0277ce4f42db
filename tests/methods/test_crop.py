"""The middle of the picture, a baseline: no paper."""

import torch
from probes import views

from foveate import Context, Crop, VisualTokens


def kept(keep, grid):
    tokens = VisualTokens.of(torch.zeros(1, grid.shape[1], 2))
    return (Crop(keep)(tokens, Context(grid=grid)).owner[0] >= 0).nonzero()[:, 0].tolist()


def test_the_middle_of_a_square_stays():
    assert kept(4, views((4, 4))) == [5, 6, 9, 10]
    assert kept(0.25, views((4, 8))) == [10, 11, 12, 13, 18, 19, 20, 21]


def test_of_several_views_the_middle_of_each():
    assert kept(2, views((3, 3), (3, 3))) == [4, 13]
