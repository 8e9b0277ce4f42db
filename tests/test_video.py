"""Pooling over clips: a clip is one row, its frames are views. After LLaVolta, arXiv:2406.20092.

Which patches belong together is said by the cells in families/. What is answered and learnt, the contract
shows.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from calling import close, traced
from families import ONE, TEXT, VIDEO, VIDEO_AND_IMAGE, Prompt, Qwen25VL, VideoLlava
from PIL import Image

import foveate
from foveate import Chain, Pool
from foveate.draw import panels
from foveate.draw.layout import GAP

TWO_CLIPS = Prompt((1, "v", "v", 4))
CLIPS = (VIDEO_AND_IMAGE, TEXT, TWO_CLIPS, ONE)
STRIDES = {1: 5, 2: 3}  # by dims: over the ends of frames, and over the edges of the grid


class Qwen(Qwen25VL):
    """Clips of unequal length: 4 views of 2 × 3 patches, 2 of 3 × 5, 3 of 2 × 2; a view is two frames."""

    videos = ((4, 4, 6), (2, 6, 10), (3, 4, 4))


CLIP_FAMILIES = {"qwen2_5_vl": Qwen(), "video_llava": VideoLlava()}


@pytest.fixture(params=sorted(CLIP_FAMILIES))
def films(request):
    """A family that takes clips. Not called `family`: these cases are cheap enough to run all."""
    return CLIP_FAMILIES[request.param]


@pytest.fixture
def model(films, attention):
    return films.model(attention)


@pytest.fixture(params=[0, 2])
def layer(request):
    return request.param


@pytest.fixture(params=sorted(STRIDES))
def pool(request, layer):
    return Pool(STRIDES[request.param], layer, dims=request.param)


def members(cells: list[tuple[int, int, int]], pool: Pool) -> list[list[int]]:
    """The patches of each token, in order: runs of the whole clip, or windows within each frame."""
    if pool.dims == 1:
        starts = range(0, len(cells), pool.stride)
        return [list(range(len(cells)))[start : start + pool.stride] for start in starts]
    windows: dict[tuple, list[int]] = {}
    for patch, (view, row, column) in enumerate(cells):
        windows.setdefault((view, row // pool.stride, column // pool.stride), []).append(patch)
    return list(windows.values())


def cells_of(films, prompts) -> list[list[tuple[int, int, int]]]:
    """Of every row, images first: view, row and column of each patch."""
    return [sight.cells for sights in films.sights(prompts).values() for sight in sights]


# Clips in prompts


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize(
    ("stride", "dims", "owner", "position"),
    [
        (4, 1, [0] * 4 + [1] * 4 + [2] * 4, [[3, 4, 5], [3, 3, 3], [3, 4, 4]]),
        (2, 2, [0, 0, 1] * 2 + [2, 2, 3] * 2, [[3, 3, 5, 5], [3, 3, 3, 3], [3, 5, 3, 5]]),
    ],
)
@torch.no_grad()
def test_which_patches_make_a_token_and_where_it_stands(layer, stride, dims, owner, position):
    """Numbers by hand: a clip of four frames, two views of 2 × 3 patches, behind three tokens of text.

    Time of the two views: 3 and 5, two a second; rows 3 and 4; columns 3 to 5. A token is a mean, at the
    floor of its patches' mean position.
    """
    model, inputs, seen = Qwen25VL().model(), Qwen25VL().inputs((VIDEO,)), {}
    decoder, places = model.model.language_model, slice(3, 3 + len(position[0]))
    patches = model(**inputs, output_hidden_states=True).hidden_states[layer][0, 3:15]
    foveate.compress(model, Pool(stride, layer, dims=dims))
    decoder.layers[layer].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs, hidden=args[0]), with_kwargs=True
    )
    _, (step,) = traced(model, inputs)
    assert step.owner[0].tolist() == owner
    together = (torch.tensor(owner) == torch.arange(len(position[0]))[:, None]).float()
    close(seen["hidden"][0, places], together @ patches / together.sum(1, keepdim=True))
    turned = decoder.rotary_emb(patches, torch.tensor(position)[:, None])
    for got, want in zip(seen["position_embeddings"], turned, strict=True):
        close(got[..., places, :], want)


def test_one_step_per_site_speaks_of_the_patches_of_the_clip(model, films, pool):
    inputs, cells = films.inputs(CLIPS), cells_of(films, CLIPS)
    both = Chain(pool, Pool(3, layer=3))
    with foveate.compressed(model, both), torch.no_grad():
        _, steps = traced(model, inputs)
        counts = foveate.last_counts(model)
    assert [step.site for step in steps] == [part.site for part in both.parts()]
    assert steps[0].before.tolist() == [len(row) for row in cells]
    assert steps[1].before.tolist() == steps[0].after.tolist()
    assert steps[1].after.tolist() == counts
    for i, row in enumerate(cells):
        tokens = members(row, pool)
        later = [sorted(chain(*tokens[k : k + 3])) for k in range(0, len(tokens), 3)]
        for step, owned in zip(steps, (tokens, later), strict=True):
            owner = step.owner[i]
            assert [(owner == n).nonzero()[:, 0].tolist() for n in range(len(owned))] == owned
            assert int(step.after[i]) == len(owned)
            assert (owner[len(row) :] == -2).all()
            assert [tuple(cell) for cell in step.grid[i, : len(row)].tolist()] == row
    assert {len({view for view, _, _ in row}) for row in cells} > {1}  # clips of several frames


# The picture


def test_the_picture_shows_a_token_in_every_frame_it_reaches(films):
    """One picture per view: of Qwen's pairs of frames, of Video-LLaVA's frames."""
    model, inputs = films.model(), films.inputs((VIDEO,))
    ((*_, (last, _, _)),) = cells_of(films, (VIDEO,))
    frames = [Image.new("RGB", (60, 40), (128, 128, 128))] * (last + 1)
    for pool in (Pool(5), Pool(2, dims=2)):
        with foveate.compressed(model, pool), foveate.trace(model) as seen, torch.no_grad():
            model(**inputs)
        (step,) = seen.steps
        tints = tints_of(np.asarray(panels(frames, seen, side=120)[0]), step)
        for token, tint in tints.items():
            assert len(tint) == 1
            assert all(tint != other for n, other in tints.items() if n != token)
        sheet = np.asarray(foveate.draw([frames], seen, side=120)).reshape(-1, 3)
        drawn = {tuple(pixel) for pixel in np.unique(sheet, axis=0).tolist()}
        assert all(tint <= drawn for tint in tints.values())
        with pytest.raises(ValueError, match=f"{last + 1}.* views"):
            foveate.draw([[*frames, *frames]], seen)


def tints_of(pixels: np.ndarray, step) -> dict[int, set]:
    """The colours in the middle of each merged token's patches; views stand side by side."""
    owner, grid = step.owner[0], step.grid[0]
    cell = 120 // (int(grid[:, 2].max()) + 1)
    found: dict[int, set] = {}
    for token, (view, row, column) in zip(owner.tolist(), grid.tolist(), strict=True):
        if row >= 0 and (owner == token).sum() > 1:
            left = view * (cell * (int(grid[:, 2].max()) + 1) + GAP)
            colour = pixels[row * cell + cell // 2, left + column * cell + cell // 2]
            found.setdefault(token, set()).add(tuple(colour.tolist()))
    return found
