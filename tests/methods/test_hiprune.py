"""HiPrune, arXiv:2508.00553."""

import pytest
import torch
from families import FAMILIES
from methods_by_hand import kept, looked_at, ragged
from probes import views

import foveate
from foveate import Context, HiPrune, VisualTokens


def layered(middle, deep, n, anchors, rows, columns):
    """Anchors, the four beside each, the rest by the deep block; on one grid."""
    first = looked_at(middle, round(n * anchors / 5))
    cells = [divmod(i, columns) for i in range(rows * columns)]
    beside = {
        i
        for i, (r, c) in enumerate(cells)
        if any(abs(r - cells[a][0]) + abs(c - cells[a][1]) == 1 for a in first)
    }
    near = looked_at(deep, n - len(first), sorted(beside - {*first}))
    found = first + near
    others = [i for i in range(rows * columns) if i not in found]
    return sorted(found + looked_at(deep, n - len(found), others))


@pytest.mark.parametrize("anchors", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("n", [1, 10, 23, 29, 30])
def test_anchors_neighbours_and_the_deep_block(n, anchors):
    tokens, middle = ragged([30, 30])
    deep = ragged([30, 30], seed=1)[1]
    context = Context(received={8: middle, 22: deep}, grid=views((5, 6)).expand(2, -1, -1))
    out = HiPrune(n, anchors)(tokens, context)
    for b in range(2):
        assert kept(out, b) == layered(middle[b], deep[b], n, anchors, 5, 6)


def test_neighbours_end_at_the_edge_of_their_view():
    """The anchor stands last in its row, behind the first view: below and right of it there is nothing."""
    grid = views((2, 3), (2, 3))
    middle, deep = torch.zeros(1, 12), torch.zeros(1, 12)
    middle[0, 5], deep[0, 9] = 1.0, 1.0
    method = HiPrune(4, anchors=1.0)
    out = method(
        VisualTokens.of(torch.eye(12)[None]), Context(received={8: middle, 22: deep}, grid=grid)
    )
    assert kept(out) == [2, 4, 5, 9]


def test_every_view_by_itself():
    tokens, middle = ragged([18])
    deep = ragged([18], seed=1)[1]
    context = Context(received={8: middle, 22: deep}, grid=views((3, 4), (2, 3)))
    out = HiPrune(5, 0.9, per_view=True)(tokens, context)
    first = layered(middle[0, :12], deep[0, :12], 5, 0.9, 3, 4)
    second = layered(middle[0, 12:], deep[0, 12:], 5, 0.9, 2, 3)
    assert kept(out) == first + [12 + i for i in second]


def test_the_blocks_are_the_papers_and_scaled_to_the_tower():
    assert HiPrune().vision_blocks == (8, 22)
    assert HiPrune(tower_layers=12, feature_layer=12).vision_blocks == (4, 11)
    model = FAMILIES["llava"].model()
    with pytest.raises(ValueError, match=r"tower_layers=24.*for_model"):
        foveate.compress(model, HiPrune(4))
    foveate.compress(model, "hiprune", keep=4)
    with pytest.raises(ValueError, match="anchors=-1"):
        HiPrune(4, anchors=-1)
