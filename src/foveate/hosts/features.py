"""Images in, compressed visual tokens out, without a prompt: for engines that make prompts themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor
from foveate.hosts import before, checks, encode, glance, grids, hooks, rows, samples, traits

ASKING = frozenset({"text", "text_ids", "text_mask"})  # what only a prompt says


def check(method: Compressor) -> None:
    """Raise ValueError for a method that asks for more than an image, before anything is loaded."""
    check_place(method)
    for part in method.at(1.0).parts():
        if part.needs & ASKING:
            raise ValueError(
                f"{part._get_name()} reads the question, and an engine encodes an image once for any question"
            )


def check_place(method: Compressor) -> None:
    """Raise ValueError for a method that acts inside the language model."""
    for part in method.at(1.0).parts():
        if part.site > before.ENTRY:
            raise ValueError(
                f"{part._get_name()} acts {part.site.words}, and the cache of an engine is as long in every "
                "layer"
            )


@torch.no_grad()
def features(
    base: nn.Module,
    method: Compressor,
    sizes: Sequence[int],
    modality: str = "image",
    axes: Sequence[Tensor] | None = None,
    **given: Any,
) -> list[tuple[Tensor, Tensor]]:
    """What a method leaves of each image: its tokens (M, D), and the places (A, M) they had among its own.

    sizes: how many visual tokens each image has uncompressed, newlines included; given: what the model's
    own feature function takes, such as pixel_values. Newlines are gone, as with compress(newlines="none"):
    nobody knows which rows keep a token before the image is seen. axes: (A, size) the place of each of an
    image's tokens, 0, 1, 2, … if not given. What is left has the floor of the mean of the patches that it
    carries, as with positions="original".

    Raises ValueError as `check` does and where sizes do not fit, and as `fitting` does.
    """
    check(method)
    tapped = fitting(base, method)
    parts = method.at(1.0).parts()
    own = getattr(type(base), f"get_{modality}_features")
    with _shown(base, method, tapped):
        output = encode.encode(base, own, modality, parts, return_dict=True, **given)
    seen = rows.of_units(base, modality, output[encode.KEY], sizes)
    draws = samples.Draws(training=False, step=None)
    tokens, _ = before.compress_images(base, seen, parts, draws, traced=False, merges=False)
    if axes is None:
        axes = [torch.arange(size, device=tokens.x.device)[None] for size in sizes]
    own = [of[:, column.clamp(min=0)] for of, column in zip(axes, seen.column, strict=True)]
    places = torch.stack([tokens.mean(axis) for axis in torch.stack(own, dim=1)], dim=1)
    left = zip(tokens.x, places, tokens.valid, strict=True)
    return [(x[valid], place[:, valid]) for x, place, valid in left]


def fitting(base: nn.Module, method: Compressor) -> dict[nn.Module, dict[str, bool]]:
    """Raise as `compress` does where a method cannot act on a model, and NotImplementedError for DeepStack.

    The model may be on the meta device. Returns what `checks.check` does.
    """
    if deep := traits.deepened(base):
        raise NotImplementedError(
            f"DeepStack adds features behind {deep} decoder layers, and an engine is handed those of one"
        )
    return checks.check(base, method)


@contextmanager
def _shown(
    base: nn.Module, method: Compressor, tapped: dict[nn.Module, dict[str, bool]]
) -> Iterator[None]:
    """Inside, the vision tower shows what this method asks for; afterwards it is what it was."""
    handles = hooks.of_tower(base, method)
    for attention, shows in tapped.items():
        glance.tap(attention, shows)
    try:
        yield
    finally:
        for attention in tapped:
            glance.untap(attention)
        for handle in handles:
            handle.remove()


def layout(config: Any, size: int, tiles: int = 1, modality: str = "image", **given: Any) -> Tensor:
    """(P, 3) view, row and column of each patch of an image, from what its processor says of it.

    size: how many visual tokens it has uncompressed; tiles: how many views of one size; given: its row of
    image_grid_thw or image_sizes, where the model takes one. Raises NotImplementedError where that is not
    enough.
    """
    base = SimpleNamespace(config=config)
    if traits.closes_rows(config):
        sizes = given.get("image_sizes")  # of a video there are none
        grid = None if sizes is None else grids.closed(base, sizes.flatten().tolist(), size)
    else:
        views = [size] if given else [size // tiles] * tiles
        given = {name: value.reshape(1, -1) for name, value in given.items()}
        cells = grids.of_units(base, modality, given, views, None)
        fits = all(cell is not None for cell in cells) and sum(map(len, cells)) == size
        grid = grids.stacked(cells) if fits else None
    if grid is None:
        raise NotImplementedError(
            f"{config.model_type}: nothing says how the {size} tokens of an image lie before it is seen"
        )
    return grid
