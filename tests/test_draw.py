"""The picture says what the step says: what stays is untouched, what goes fades, what merges is marked."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.compressor import Site, Tower
from foveate.draw import draw, kept, panel
from foveate.hosts.trace import Step, Trace

CELL = 20


def step(owner, grid=None, scores=None):
    owner = torch.tensor(owner)
    after = torch.tensor([len(set(row[row >= 0].tolist())) for row in owner])
    before = (owner > -2).sum(1)
    return Step(Site(Tower.language, 2), owner, before, after, scores, grid)


def grid(rows, columns, images=1):
    cells = [(0, r, c) for r in range(rows) for c in range(columns)]
    return torch.tensor([cells] * images)


def middle(pixels, row, column):
    """One cell without its edge."""
    top, left = row * CELL, column * CELL
    return pixels[top + 4 : top + CELL - 4, left + 4 : left + CELL - 4]


def test_kept_stay_dropped_fade():
    pixels = np.random.default_rng(0).uniform(0, 255, (2 * CELL, 2 * CELL, 3))
    out = kept(pixels, np.array([[0, -1], [-1, 1]]), CELL)
    assert np.array_equal(middle(out, 0, 0), middle(pixels, 0, 0))
    assert np.array_equal(middle(out, 1, 1), middle(pixels, 1, 1))
    faded = middle(out, 0, 1)
    assert np.ptp(faded, axis=-1).max() < 1e-9  # grey
    assert faded.min() > 180  # and light


def test_patches_of_one_token_share_a_tint():
    pixels = np.full((CELL, 4 * CELL, 3), 128.0)
    out = kept(pixels, np.array([[0, 0, 1, 1]]), CELL)
    first, second = middle(out, 0, 0), middle(out, 0, 2)
    assert np.array_equal(first, middle(out, 0, 1))
    assert not np.array_equal(first, second)
    border = out[CELL // 2, CELL - 2 : CELL + 2]
    assert np.array_equal(
        border, np.broadcast_to(first[0, 0], border.shape)
    )  # no line inside a token
    assert not np.array_equal(out[CELL // 2, 2 * CELL - 1], first[0, 0])  # one where tokens meet


def test_a_panel_per_step_and_a_row_per_image():
    image = Image.new("RGB", (50, 40), "red")
    one = draw(image, Trace([step([[0, -1, -1, 1]])]), side=100)
    two = draw(image, [step([[0, -1, -1, 1]]), step([[0, -1, -1, -1]])], side=100)
    both = draw([image, image], [step([[0, -1, -1, 1], [0, 0, 1, -2]], grid(2, 2, 2))], side=100)
    assert two.width > one.width
    assert two.height == one.height
    assert both.height > 1.8 * one.height


def test_scores_are_drawn_where_a_step_has_them():
    image, scores = Image.new("RGB", (40, 40)), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    plain = draw(image, [step([[0, -1, -1, 1]])], side=100, scores=True)
    heated = draw(image, [step([[0, -1, -1, 1]], scores=scores)], side=100, scores=True)
    assert heated.width > plain.width


def test_any_grid():
    picture = panel(Image.new("L", (300, 20)), step([[0, 1, -1, -1, 2, -1]], grid(2, 3)), side=60)
    assert picture.size == (60, 40)


def test_everything_dropped_is_drawn_too():
    assert panel(Image.new("RGB", (8, 8)), step([[-1, -1, -1, -1]]), side=40).size == (40, 40)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([], "no step"),
        ([step([[0, 1, 2, 3], [0, 1, 2, 3]])], "1 images"),
        ([step([[0, 1, 2]])], "no square"),
        ([step([[0, 1]], torch.tensor([[(0, 0, 0), (1, 0, 0)]]))], "one view"),
    ],
)
def test_what_cannot_be_drawn_says_why(steps, says):
    with pytest.raises(ValueError, match=says):
        draw(Image.new("RGB", (8, 8)), steps)
