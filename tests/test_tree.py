"""The tree of a picture: every budget exactly, one inside the other, and no worse than it says."""

from __future__ import annotations

import pytest
import torch

from foveate.core.tree import tree

draw = torch.Generator().manual_seed(0)


def cells(*shapes):
    """Views of these rows and columns."""
    rows = [(v, r, c) for v, (h, w) in enumerate(shapes) for r in range(h) for c in range(w)]
    return torch.tensor(rows)


def pictures(n, B=2, D=5):
    return torch.randn(B, n, D, generator=draw), torch.rand(B, n, generator=draw) + 0.01


LAYOUTS = {
    "square": cells((6, 6)),
    "wide": cells((3, 11)),
    "a row": cells((1, 9)),
    "tiles and their whole": cells((4, 4), (5, 4), (4, 4)),
    "frames": cells(*[(2, 2)] * 7),
    "holes": cells((6, 6))[torch.randperm(36, generator=draw)[:23].sort().values],
    "one cell for all": torch.zeros(5, 3, dtype=torch.long) - 1,
    "one token": cells((1, 1)),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def leaves(made, x, w, n):
    return made.cut(x, w, torch.full((len(x), 1), n))


def test_every_budget_is_met_and_contained_in_the_next(layout):
    made, N = tree(layout), len(layout)
    x, w = pictures(N)
    before = None
    for n in range(1, N + 1):
        now = leaves(made, x, w, n)
        assert [len(row.unique()) for row in now] == [n] * len(x)
        for row, coarse in zip(now, now if before is None else before, strict=True):
            assert (
                len(torch.stack([row, coarse], 1).unique(dim=0)) == n
            )  # a leaf lies in one coarser
        before = now


def test_a_leaf_is_a_rectangle_of_one_view(layout):
    """Of those cells that there are."""
    made, N = tree(layout), len(layout)
    x, w = pictures(N, B=1)
    views = len(layout[:, 0].unique())
    for n in {min(views, N), N // 2 or 1, N}:
        (row,) = leaves(made, x, w, n)
        for leaf in row.unique():
            inside = layout[row == leaf]
            low, high = inside.amin(0), inside.amax(0)
            there = ((layout >= low) & (layout <= high)).all(1)
            assert there.sum() == len(inside) or len(layout.unique(dim=0)) == 1


def test_costs_and_gains_are_what_is_lost_and_saved(layout):
    made, N = tree(layout), len(layout)
    x, w = (t.double() for t in pictures(N, B=1))
    gain, cost = made.gains(x, w)

    def lost(below):
        mean = (w[0, below, None] * x[0, below]).sum(0) / w[0, below].sum()
        return (w[0, below] * (x[0, below] - mean).square().sum(-1)).sum()

    below = [(made.above == node).any(0) for node in range(len(made.tokens))]
    assert [int(some.sum()) for some in below] == made.tokens.tolist()
    wanted = torch.stack([lost(some) for some in below])
    torch.testing.assert_close(cost[0], wanted)
    for node, ends in made.children:
        for n, (left, right) in zip(node.tolist(), ends.tolist(), strict=True):
            torch.testing.assert_close(gain[0, n], wanted[n] - wanted[left] - wanted[right])


def test_detail_is_split_first_and_what_weighs_more():
    """One odd token in a flat picture stands alone with few leaves; of two, that of more weight first."""
    made = tree(cells((8, 8)))
    x, w = torch.zeros(1, 64, 2), torch.ones(1, 64)
    x[0, 19] = 1.0
    row = leaves(made, x, w, 7)[0]
    assert (row == row[19]).sum() == 1
    x[0, 44], w[0, 44] = 1.0, 9.0
    row = leaves(made, x, w, 7)[0]
    assert (row == row[44]).sum() == 1 < (row == row[19]).sum()


def test_a_checkerboard_is_split_too():
    """No first split of it saves anything: without looking ahead it would stay whole."""
    layout = cells((8, 16))
    board = ((layout[:, 1] + layout[:, 2]) % 2).float()[None, :, None]
    board = board.masked_fill((layout[:, 2] >= 8)[:, None], 0.5)  # the right half is flat
    (row,) = leaves(tree(layout), board, torch.ones(1, 128), 40)
    left = layout[:, 2] < 8
    assert len(row[left].unique()) == 39 and len(row[~left].unique()) == 1


def test_a_flat_picture_is_split_evenly():
    (row,) = leaves(tree(cells((8, 8))), torch.zeros(1, 64, 3), torch.ones(1, 64), 16)
    assert row.unique(return_counts=True)[1].tolist() == [4] * 16


def test_a_row_is_cut_as_it_is_alone():
    made = tree(cells((7, 9)))
    x, w = pictures(63, B=4)
    n = torch.tensor([[3], [63], [20], [1]])
    together = made.cut(x, w, n)
    for i in range(4):
        assert torch.equal(together[i], made.cut(x[i : i + 1], w[i : i + 1], n[i : i + 1])[0])


def test_a_layout_is_made_once():
    assert tree(cells((3, 4))) is tree(cells((3, 4)))
