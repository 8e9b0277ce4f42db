"""Pictures of every size and shape, on the families that cut them into tiles.

hypothesis draws batches; the bare model's own packing says where patches and newlines stand. Keeping all is
the bare model, dropping is masking.
"""

from __future__ import annotations

from copy import copy
from functools import cache
from math import prod

import pytest
import torch
from calling import close, greedy, traced
from families import FAMILIES, LAYERS, Prompt
from families.family import tower
from families.llava import LlavaNext
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracle import reference, seen_columns
from PIL import Image
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

import foveate
from foveate import Chain, FastV, Identity, Pool, Stride, VisionZip
from foveate.hosts import grids
from foveate.hosts.attach import POSITIONS
from foveate.hosts.cost import watch

KEEP_ALL = {
    "identity": Identity,
    "stride": lambda: Stride(1.0),
    "fastv": lambda: FastV(1.0),
    "visionzip": lambda: VisionZip(1.0, projected=True),
}
DROPPING = {
    "stride": lambda: Stride(0.3),
    "pool": lambda: Pool(2, dims=2),
    "fastv": lambda: FastV(0.25),
    "few": lambda: FastV(2, layer=1),
    "three cuts": lambda: Chain(Stride(12), FastV(0.5, layer=1), Pool(2, layer=3)),
}


class OddSides(LlavaNext):
    """Tiles of 3 × 3 patches, so that a picture may be unpadded to one row; and long ones."""

    patches, side = 9, 24

    def config(self):
        config = super().config()
        config.vision_config = type(config.vision_config)(
            **tower("clip_vision_model", image_size=24)
        )
        config.image_grid_pinpoints = [[24, 24], [24, 96], [96, 24], [48, 48]]
        config.image_seq_length = self.patches
        return config


TILED = {name: FAMILIES[name] for name in ("llava_next", "llava_onevision")}
TILED["odd sides"] = OddSides()
MARKED = {name: FAMILIES[name] for name in ("internvl", "smolvlm", "idefics3")}
LONG = [1, 2, 5, 10, 31, 32, 33, 64, 199, 1999]
SIZE = st.tuples(*[st.sampled_from(LONG) | st.integers(1, 400)] * 2)  # height, width
GRID = st.tuples(st.integers(1, 3), st.integers(1, 3))  # rows and columns of tiles


def batches(image):
    """One to three prompts with one or two images each, of what says how large one is."""
    return st.lists(st.lists(image, min_size=1, max_size=2), min_size=1, max_size=3)


@cache
def model_of(name):
    return (TILED | MARKED)[name].model()


def newlined(name, rows):
    """A batch as the processor makes it, and where its patches and newlines stand. rows: sizes by prompt."""
    family = copy(TILED[name])
    family.cuts = [cut(name, size) for row in rows for size in row]
    return made(family, rows)


def cut(name, size):
    """Of a picture of this size: its tiles, and of the joined ones what the bare model leaves."""
    base, family = model_of(name).model, TILED[name]
    tiles = get_anyres_image_grid_shape(size, base.config.image_grid_pinpoints, family.side)
    kind = "vision_aspect_ratio" if name == "llava_onevision" else "vision_feature_select_strategy"
    how = {kind: "anyres_max_2" if name == "llava_onevision" else "default"}
    views = torch.ones(1 + prod(tiles), family.patches, 1)
    try:
        (cells,), _ = base.pack_image_features(
            [views], torch.tensor([size]), image_newline=-torch.ones(1), **how
        )
    except RuntimeError:  # the bare model cannot interpolate to no row at all
        assume(False)
    lines = int((cells < 0).sum())
    return size, tiles, (lines, (len(cells) - family.patches) // max(lines, 1) - 1)


def marked(name, rows):
    """The same for families with markers; rows: rows and columns of tiles, by prompt."""
    family = copy(MARKED[name])
    family.cuts = [tiles for row in rows for tiles in row]
    return made(family, rows)


def made(family, rows):
    """Prompts of as many images as there are in each row."""
    prompts = [Prompt((1, *["i", 1] * len(row))) for row in rows]
    inputs = family.inputs(prompts)
    return inputs, family.stands(prompts, inputs["input_ids"])


def lengths(output):
    return [output.past_key_values.get_seq_length(layer) for layer in range(LAYERS)]


@torch.no_grad()
def keeps_all(name, inputs, methods=KEEP_ALL):
    model = model_of(name)
    want = model(**inputs)
    for method in methods:
        with foveate.compressed(model, KEEP_ALL[method]()):
            got = model(**inputs)
        assert torch.equal(got.logits, want.logits), method
        assert lengths(got) == lengths(want), method


@torch.no_grad()
def drops_as_a_mask_does(name, inputs, stands, method, positions):
    model = model_of(name)
    with foveate.compressed(model, DROPPING[method](), positions):
        got, steps = traced(model, inputs)
    want = reference(model, stands, inputs, steps, positions == "renumbered").logits
    columns = seen_columns(stands, inputs, steps)
    close(got.logits[columns], want[columns])
    # What the mask hides of the prompt, the cache does not hold: in the longest row, column by column.
    assert lengths(got)[-1] == int(columns.sum(1).max())


def few(test):
    return settings(max_examples=3, deadline=None, derandomize=True, database=None)(test)


def thousands(test):
    return settings(max_examples=1000, deadline=None, database=None)(test)


@pytest.mark.parametrize("name", TILED)
@few
@given(batches(SIZE))
@example([[(199, 10)]])  # unpadded to no column: 8 newlines, and not a patch between them
@example([[(10, 199)], [(199, 10), (33, 64)]])
@example([[(1, 1999)], [(1999, 1)], [(1, 1)]])
def test_keeping_all_of_a_picture_of_any_shape_is_the_bare_model(name, rows):
    keeps_all(name, newlined(name, rows)[0])


@pytest.mark.parametrize("name", TILED)
@few
@given(batches(SIZE), st.sampled_from(sorted(DROPPING)), st.sampled_from(POSITIONS))
@example([[(199, 10)], [(199, 10), (64, 64)]], "fastv", "original")
@example([[(199, 10)], [(10, 199), (5, 31)]], "stride", "renumbered")
def test_dropping_of_a_picture_of_any_shape_is_masking(name, rows, method, positions):
    drops_as_a_mask_does(name, *newlined(name, rows), method, positions)


@pytest.mark.parametrize("name", MARKED)
@few
@given(batches(GRID), st.sampled_from(sorted(DROPPING)), st.sampled_from(POSITIONS))
def test_any_number_of_marked_tiles(name, rows, method, positions):
    inputs, stands = marked(name, rows)
    keeps_all(name, inputs)
    drops_as_a_mask_does(name, inputs, stands, method, positions)


@pytest.mark.full
@pytest.mark.parametrize("name", TILED)
@thousands
@given(batches(SIZE), st.sampled_from(sorted(DROPPING)), st.sampled_from(POSITIONS))
def test_thousands_of_shapes(name, rows, method, positions):
    inputs, stands = newlined(name, rows)
    keeps_all(name, inputs)
    drops_as_a_mask_does(name, inputs, stands, method, positions)


@pytest.mark.full
@pytest.mark.parametrize("name", MARKED)
@thousands
@given(batches(GRID), st.sampled_from(sorted(DROPPING)), st.sampled_from(POSITIONS))
def test_thousands_of_marked_tiles(name, rows, method, positions):
    inputs, stands = marked(name, rows)
    keeps_all(name, inputs)
    drops_as_a_mask_does(name, inputs, stands, method, positions)


def test_decoding_behind_rows_without_a_patch():
    """The answer, step by step on the cache, is that of the bare model; and it stays so when recomputed."""
    model, (inputs, _) = model_of("llava_next"), newlined("llava_next", [[(199, 10)], [(20, 60)]])
    want = greedy(model, inputs, 5)
    with foveate.compressed(model, FastV(1.0)):
        assert torch.equal(greedy(model, inputs, 5), want)
    with foveate.compressed(model, FastV(3)):
        cached = greedy(model, inputs, 5)
        assert torch.equal(greedy(model, inputs, 5, use_cache=False), cached)


@torch.no_grad()
def test_a_picture_without_a_column_of_tiles_is_seen_drawn_and_counted():
    """Its steps are of the whole view alone; what the prefill costs is what the cache holds."""
    model, (inputs, _) = model_of("llava_next"), newlined("llava_next", [[(199, 10)]])
    with foveate.compressed(model, FastV(4)):
        got, (step,) = traced(model, inputs)
        load = watch(model, 0, lambda: model(**inputs))
    assert step.owner.shape == (1, 16) and str(step) == "language 2: 16 → 4"
    assert step.grid[0].unique(dim=0).tolist() == [[0, r, c] for r in range(4) for c in range(4)]
    # 16 patches or 4, 8 newlines and 2 words.
    assert list(load.lengths) == lengths(got) == [26, 26, 14, 14, 14]
    picture = foveate.draw(Image.new("RGB", (10, 199)), [step])
    assert min(picture.size) > 0


def test_a_newline_alone_closes_its_view_with_its_class_token():
    """A view of 16 patches and a class token, as a tower gives it that keeps one: one row, closed as one."""
    base, newline = model_of("llava_next").model, torch.tensor([False] * 17 + [True])
    for modality in ("image", "video"):
        assert grids.closing_newline(base, modality, newline)[:17].tolist() == [0] * 17
