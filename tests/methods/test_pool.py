"""Pooling: LLaVolta's compressor, arXiv:2406.20092, and windows of the grid."""

import pytest
import torch
from probes import views

from foveate import Context, Pool, VisualTokens


def test_one_dimension_is_average_pooling():
    x = torch.randn(2, 24, 5)
    out = Pool(8)(VisualTokens.of(x), Context())
    want = torch.nn.functional.avg_pool1d(x.mT, 8).mT
    torch.testing.assert_close(out.x, want)
    assert out.owner[0].tolist() == [0] * 8 + [1] * 8 + [2] * 8


def test_two_dimensions_are_average_pooling_of_the_grid():
    x = torch.randn(1, 36, 5)
    out = Pool(2, dims=2)(VisualTokens.of(x), Context(grid=views((6, 6))))
    want = torch.nn.functional.avg_pool2d(x.mT.reshape(1, 5, 6, 6), 2).flatten(2).mT
    torch.testing.assert_close(out.x, want)


def test_windows_at_the_edge_are_smaller():
    out = Pool(2, dims=2)(VisualTokens.of(torch.ones(1, 9, 1)), Context(grid=views((3, 3))))
    assert out.owner.tolist() == [[0, 0, 1, 0, 0, 1, 2, 2, 3]]
    assert Pool(4)(VisualTokens.of(torch.ones(1, 9, 1)), Context()).size.tolist() == [[4, 4, 1]]


def test_a_pooled_token_sits_at_the_floor_of_the_mean_position():
    """Stride 8: the first position plus 3, as LLaVolta has it."""
    out = Pool(8)(VisualTokens.of(torch.randn(1, 16, 2)), Context())
    assert out.mean(torch.arange(16)[None] + 35).tolist() == [[38, 46]]


def test_budgets_it_can_express():
    assert Pool.keeping(0.25).stride == 4 and Pool.keeping(0.25, dims=2).stride == 2
    assert Pool.keeping(0.333).stride == 3 and Pool.keeping(1.0).stride == 1
    for keep in (0.4, 64, 0.75):
        with pytest.raises(ValueError, match=r"0\.5, 0\.333, 0\.25"):
            Pool.keeping(keep)
    with pytest.raises(ValueError, match=r"1, 0\.25, 0\.111"):
        Pool.keeping(0.5, dims=2)
    assert repr(Pool.keeping()) == repr(Pool.keeping(stride=4)) == repr(Pool())
    with pytest.raises(ValueError, match="give one"):
        Pool.keeping(0.5, stride=2)
    with pytest.raises(ValueError, match="want"):
        Pool.keeping(0)
    for wrong in ({"stride": 0}, {"stride": 1.5}, {"dims": 3}, {"layer": -1}):
        with pytest.raises(ValueError, match="want"):
            Pool(**wrong)


@pytest.mark.parametrize("dims", [1, 2])
def test_strides_are_drawn_in_training_and_as_given_afterwards(dims):
    """Each image by itself is what it is in a batch."""
    x, cells = torch.randn(3, 36, 5), views((6, 6)).expand(3, -1, -1)
    method = Pool(2, dims=dims, sampled=[1, 2, 3]).train()
    seeded = [torch.Generator().manual_seed(s) for s in range(3)]
    together = method(VisualTokens.of(x), Context(grid=cells, generator=seeded))
    for i in range(3):
        again = [torch.Generator().manual_seed(i)]
        alone = method(VisualTokens.of(x[i, None]), Context(grid=cells[i, None], generator=again))
        assert torch.equal(alone.owner[0], together.owner[i])
    assert len(set(together.counts.tolist())) > 1
    left = method.eval()(VisualTokens.of(x), Context(grid=cells))
    assert left.counts.tolist() == [36 // 2**dims] * 3


def test_strides_that_are_none():
    for sampled in ([], 2, [0]):
        with pytest.raises(ValueError, match="sampled"):
            Pool(sampled=sampled)
