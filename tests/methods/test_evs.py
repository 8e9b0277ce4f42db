"""EVS, arXiv:2510.14624."""

import pytest
import torch
from calling import traced
from families import FAMILIES, ONE, VIDEO, VIDEO_AND_IMAGE
from methods_by_hand import kept, ragged
from probes import Looks, views

import foveate
from foveate import EVS, Chain, Context, Stride
from foveate.core.compressor import language

FRAMES = ((2, 3), (2, 3), (2, 3), (2, 3))


def by_hand(x, cells, n):
    """Patches that stay of one video: the first frame, then what changed most, the earlier of equals."""
    place = {tuple(cell): i for i, cell in enumerate(cells)}
    first = [i for i, (view, _, _) in enumerate(cells) if view == 0]
    if n < len(first):
        return first[:: len(first) // n][:n]
    change = {}
    for i, (view, row, column) in enumerate(cells):
        if view > 0:
            change[i] = 1 - float(torch.cosine_similarity(x[i], x[place[view - 1, row, column]], 0))
    most = sorted(change, key=lambda i: (-change[i], i))[: n - len(first)]
    return sorted(first + most)


@pytest.mark.parametrize("n", [1, 2, 4, 6, 7, 15, 24])
@pytest.mark.parametrize("class_token", [False, True])
def test_the_first_frame_and_what_changed_most(n, class_token):
    """Of two videos, one shorter; a class token of each frame stands beside the grid."""
    grid = views(*FRAMES)[0].tolist()
    if class_token:
        grid = [
            c for i, c in enumerate(grid) for c in ([[c[0], -1, -1]] if i % 6 == 0 else []) + [c]
        ]
    P = len(grid)
    short = P // 2
    tokens, _ = ragged([P, short])
    cells = torch.tensor([grid, grid]).masked_fill(~tokens.valid[..., None], -1)
    context = Context(grid=cells, overview=torch.zeros_like(tokens.valid))
    out = EVS(n)(tokens, context)
    for b, length in enumerate((P, short)):
        assert kept(out, b) == by_hand(tokens.x[b, :length], grid[:length], min(n, length))


def test_what_stands_still_leaves_first():
    """Frames alike but for one patch of the third, and one of the fourth that turns a little."""
    tokens, _ = ragged([24])
    x = tokens.x[:, :6].repeat(1, 4, 1)
    x[0, 12 + 2] = -x[0, 12 + 2]
    x[0, 18 + 2] = x[0, 12 + 2]
    x[0, 18 + 4, 0] += 0.5
    context = Context(grid=views(*FRAMES), overview=torch.zeros(1, 24, dtype=torch.bool))
    assert kept(EVS(7)(tokens.carry(x), context)) == [*range(6), 14]
    assert kept(EVS(8)(tokens.carry(x), context)) == [*range(6), 14, 22]


def test_the_tiles_of_an_image_are_no_frames():
    """Whatever is alike in them: even steps of all."""
    tokens, _ = ragged([24])
    overview = (torch.arange(24) < 6)[None]
    context = Context(grid=views(*FRAMES), overview=overview)
    assert kept(EVS(6)(tokens, context)) == [*range(0, 24, 4)]


def test_behind_another_method_it_compares_the_tokens_that_are_left():
    """Every second patch is gone, and of six columns those that are left stand below each other."""
    tokens, _ = ragged([24])
    grid, none = views(*FRAMES), torch.zeros(1, 24, dtype=torch.bool)
    half = tokens.where(torch.arange(24) % 2 == 0)
    out = EVS(5)(half, Context(grid=grid, overview=none))
    want = by_hand(half.x[0], grid[0, ::2].tolist(), 5)
    assert kept(out) == [2 * i for i in want]


@pytest.mark.parametrize("name", sorted(n for n, family in FAMILIES.items() if family.takes_video))
@torch.no_grad()
def test_of_a_model_it_keeps_what_changed(name):
    """By the frames that the family says its videos have, of tokens before the language model."""
    family = FAMILIES[name]
    model, looks = family.model(), Looks(language(0), ())
    for prompts in ((VIDEO,), (VIDEO_AND_IMAGE, ONE)):
        with foveate.compressed(model, Chain(looks, EVS(0.6), Stride(1.0))):
            _, steps = traced(model, family.inputs(prompts))
        (tokens, _), sights = looks.seen.pop(), family.sights(prompts)
        frames = [sight.cells for sight in sights["video"]]
        for cells, i in zip(frames, range(len(sights["image"]), len(tokens.x)), strict=True):
            want = by_hand(tokens.x[i, : len(cells)], cells, int(0.6 * len(cells) + 0.5))
            assert (steps[1].owner[i] >= 0).nonzero()[:, 0].tolist() == want
