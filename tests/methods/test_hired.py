"""HiRED, arXiv:2408.10945."""

import pytest
import torch
from families import FAMILIES, ONE, TWO
from methods_by_hand import kept, looked_at, ragged
from probes import views
from test_groups import shared

import foveate
from foveate import Context, HiRED, VisualTokens


def shown(first, deep, n, alpha, whole, tiles):
    """Patches of the whole view, row by row, and tiles as their patches and the part of it that they show."""
    size = len(whole)
    marks = looked_at(first, int(size * (1 - alpha)), whole)
    weight = [sum(i in part for i in marks) for _, part in tiles]
    room = [len(tile) for tile, _ in tiles]
    of_tiles = shared(n - min(int(n * alpha), size), weight, room)
    found = looked_at(deep, n - sum(of_tiles), whole)
    for (tile, _), m in zip(tiles, of_tiles, strict=True):
        found += looked_at(deep, m, tile)
    return sorted(found)


def context_of(first, deep, grid, overview):
    return Context(cls_attention=deep, attentions={0: first}, grid=grid, overview=overview)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 7, 12, 30, 32])
def test_tiles_that_are_joined_lie_where_the_view_shows_them(n, alpha):
    """LLaVA-NeXT: a view of 4 × 4 and two tiles beside each other, their first and last row cut off."""
    joined = [(1, r, c) for r in (1, 2) for c in range(8)]
    grid = torch.cat([views((4, 4)), torch.tensor([joined])], 1)
    tokens, first = ragged([32])
    deep = ragged([32], seed=1)[1]
    overview = torch.arange(32)[None] < 16
    out = HiRED(n, alpha)(tokens, context_of(first, deep, grid, overview))
    tiles = []
    for column in (0, 1):
        mine = [16 + i for i, (_, _, c) in enumerate(joined) if c // 4 == column]
        tiles.append((mine, [i for i in range(16) if i % 4 // 2 == column]))
    assert kept(out) == shown(first[0], deep[0], n, alpha, list(range(16)), tiles)


def test_tiles_that_are_views_have_strips_of_the_last():
    """InternVL's order: three tiles of 3 × 3, behind them the whole; a second image has none."""
    grid = torch.cat([views((3, 3), (3, 3), (3, 3), (3, 3)), views((6, 6))])
    tokens, first = ragged([36, 36])
    deep = ragged([36, 36], seed=1)[1]
    overview = torch.zeros(2, 36, dtype=torch.bool)
    overview[0, 27:] = True
    out = HiRED(17)(tokens, context_of(first, deep, grid, overview))
    tiles = [(list(range(9 * k, 9 * k + 9)), list(range(27 + 3 * k, 30 + 3 * k))) for k in range(3)]
    assert kept(out) == shown(first[0], deep[0], 17, 0.5, list(range(27, 36)), tiles)
    assert kept(out, 1) == looked_at(deep[1], 17)


def test_a_tile_that_the_first_block_looks_at_gets_the_tokens():
    """Of 8 tokens 4 are the whole view's; the marks are all in its right half."""
    grid = torch.cat([views((4, 4)), views((4, 8)) + torch.tensor([1, 0, 0])], 1)
    first = torch.zeros(1, 48)
    first[0, [2, 3, 6, 7, 10, 11, 14, 15]] = 1.0
    overview = torch.arange(48)[None] < 16
    tokens = VisualTokens.of(torch.eye(48)[None])
    out = HiRED(8)(tokens, context_of(first, torch.ones(1, 48), grid, overview))
    assert kept(out) == [0, 1, 2, 3, 20, 21, 22, 23]
    with pytest.raises(ValueError, match="overview=0"):
        HiRED(8, overview=0)


@pytest.mark.parametrize("name", ["llava_next", "internvl", "llava"])
def test_a_model_keeps_its_budget_whatever_its_tiles(name):
    family = FAMILIES[name]
    model = foveate.compress(family.model(), HiRED(9), positions="renumbered", newlines="none")
    with torch.no_grad():
        model(**family.inputs((ONE, TWO)))
    assert set(foveate.last_counts(model)) == {9}
