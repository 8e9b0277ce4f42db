"""Pooling over clips: a clip is one row, its frames are views. After LLaVolta, arXiv:2406.20092.

The reference is made by hand, prompt by prompt and without padding: the model's own layers up to K see
every column; then the members of each token are averaged, vectors and positions, and the layers from K on
run on what is left. Which patches belong together is said by the cells in families/. It shares no code
with the host. What is learnt of a clip, and said behind it, the contract shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import torch
from calling import close, traced
from families import ONE, TEXT, VIDEO, VIDEO_AND_IMAGE, Prompt, Qwen25VL, VideoLlava
from PIL import Image
from torch import Tensor, nn

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


# The reference


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


@dataclass(frozen=True)
class Short:
    """One prompt, pooled by hand. hidden (M, D) before layer K, position (A, M), logits (M, V).

    first (M,) of each place, the first column it carries in the prompt without padding.
    """

    hidden: Tensor
    position: Tensor
    logits: Tensor
    first: list[int]


def short(model, films, prompts, inputs: dict, i: int, pool: Pool) -> Short:
    """Prompt i of a batch through the bare model, with its clips and images pooled before layer K."""
    decoder, K = model.model.language_model, pool.site.layer
    hidden, position = entering(model, films.single(inputs, prompts, i))
    padding = int(inputs["attention_mask"][i].argmax())
    together = [[column] for column in range(hidden.shape[1])]
    rows = zip(films.stands(prompts, inputs["input_ids"]), cells_of(films, prompts), strict=True)
    for stand, cells in rows:
        if stand.prompt == i:
            columns = [column - padding for column in stand.patches]
            together = [own for own in together if own[0] not in columns]
            together += [[columns[patch] for patch in own] for own in members(cells, pool)]
    together.sort()
    hidden = through(decoder, hidden, position, decoder.layers[:K])
    hidden = torch.stack([hidden[:, own].mean(1) for own in together], dim=1)
    position = torch.stack([position[:, own].sum(1) // len(own) for own in together], dim=1)
    last = through(decoder, hidden, position, decoder.layers[K:])
    logits = model.lm_head(decoder.norm(last))[0]
    return Short(hidden[0], position, logits, [own[0] for own in together])


def entering(model, alone: dict) -> tuple[Tensor, Tensor]:
    """What the bare language model is given for one prompt: embeddings (1, S, D), positions (A, S)."""
    seen: dict = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model.model(**alone, use_cache=False)
    hook.remove()
    position = seen.get("position_ids")
    if position is None:
        position = torch.arange(seen["inputs_embeds"].shape[1])[None]
    # Of four axes, the first is for masks.
    position = position if position.dim() == 2 else position[-3:, 0]
    return seen["inputs_embeds"], position


def rotary(decoder: nn.Module, hidden: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embeddings of one prompt. position (A, S)."""
    return decoder.rotary_emb(hidden, position[:, None] if len(position) > 1 else position)


def through(decoder: nn.Module, hidden: Tensor, position: Tensor, layers) -> Tensor:
    """Some decoder layers, with nothing but a causal mask. hidden (1, S, D)."""
    S = hidden.shape[1]
    mask = torch.full((1, 1, S, S), torch.finfo(hidden.dtype).min).triu(1)
    turned = rotary(decoder, hidden, position)
    for layer in layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=turned)
    return hidden


def stretched(pooled: Short, S: int) -> list[int]:
    """The place that speaks for each column of the prompt: the last that stands there or before."""
    return [sum(first <= column for first in pooled.first) - 1 for column in range(S)]


# Clips in prompts


def test_which_patches_make_a_token_and_where_it_stands():
    """Numbers by hand: a clip of four frames, two views of 2 × 3 patches, behind three tokens of text."""
    films = Qwen25VL()
    model, inputs = films.model(), films.inputs((VIDEO,))
    # Time of the two views: 3 and 5, two a second; rows 3 and 4; columns 3 to 5.
    for pool, want in (
        (Pool(4), [[3, 4, 5], [3, 3, 3], [3, 4, 4]]),
        (Pool(2, dims=2), [[3, 3, 5, 5], [3, 3, 3, 3], [3, 5, 3, 5]]),
    ):
        pooled = short(model, films, (VIDEO,), inputs, 0, pool)
        assert pooled.position[:, 3 : 3 + len(want[0])].tolist() == want
        with foveate.compressed(model, pool):
            _, (step,) = traced(model, inputs)
        owned = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
        assert step.owner[0].tolist() == (
            owned if pool.dims == 1 else [0, 0, 1] * 2 + [2, 2, 3] * 2
        )


@pytest.mark.parametrize("padding", ["left", "right"])
def test_tokens_are_means_at_the_floor_of_their_positions(model, films, pool, padding):
    """Vectors, rotary positions and logits of a padded batch are those of each prompt alone."""
    inputs, seen = films.inputs(CLIPS, padding), {}
    decoder = model.model.language_model
    with torch.no_grad():
        with foveate.compressed(model, pool):
            hook = decoder.layers[pool.site.layer].register_forward_pre_hook(
                lambda module, args, kwargs: seen.update(kwargs, hidden=args[0]), with_kwargs=True
            )
            logits = model(**inputs, **films.positions(inputs)).logits
            hook.remove()
        for i, real in enumerate(inputs["attention_mask"].bool()):
            want = short(model, films, CLIPS, inputs, i, pool)
            M, width = len(want.first), seen["hidden"].shape[1]
            places = slice(width - M, width) if padding == "left" else slice(M)
            close(seen["hidden"][i, places], want.hidden)
            turned = rotary(decoder, want.hidden, want.position)
            for got, expected in zip(seen["position_embeddings"], turned, strict=True):
                got = got.expand(*got.shape[:-3], len(CLIPS), *got.shape[-2:])
                close(got[..., i, places, :], expected[..., 0, :, :])
            close(logits[i, real], want.logits[stretched(want, int(real.sum()))], 2e-5)


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
