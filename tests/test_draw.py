"""The picture says what the step says: what stays is untouched, what goes fades, what merges is marked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from probes import views

from foveate.core.compressor import Site, Tower
from foveate.draw import draw, heatmaps, panels
from foveate.draw.layout import GAP, LINE, SWATCH, legend
from foveate.draw.paint import colour, kept
from foveate.draw.sheet import ACROSS, MARGIN
from foveate.draw.views import View
from foveate.hosts.trace import Step, Trace

CELL = 20


def step(owner, grid=None, scores=None):
    owner = torch.tensor(owner)
    after = torch.tensor([len(set(row[row >= 0].tolist())) for row in owner])
    before = (owner > -2).sum(1)
    return Step(Site(Tower.language, 2), owner, before, after, scores, grid)


def grid(rows, columns, images=1):
    return views((rows, columns)).expand(images, -1, -1)


def panel(image, one, side):
    """What one step left of its only image, without maps."""
    (picture,) = panels(image, [replace(one, scores=None)], side=side)
    return picture


def middle(pixels, row, column):
    """One cell without its edge."""
    top, left = row * CELL, column * CELL
    return pixels[top + 4 : top + CELL - 4, left + 4 : left + CELL - 4]


def test_kept_stay_dropped_fade():
    pixels = np.random.default_rng(0).uniform(0, 255, (2 * CELL, 2 * CELL, 3))
    out = kept(pixels, View(np.array([[0, -1], [-1, 1]]), np.array([[1, 0], [0, 1]])), CELL)
    assert np.array_equal(middle(out, 0, 0), middle(pixels, 0, 0))
    assert np.array_equal(middle(out, 1, 1), middle(pixels, 1, 1))
    faded = middle(out, 0, 1)
    assert np.ptp(faded, axis=-1).max() < 1e-9  # grey
    assert faded.min() > 180  # and light


def test_patches_of_one_token_share_a_tint():
    pixels = np.full((CELL, 4 * CELL, 3), 128.0)
    out = kept(pixels, View(np.array([[0, 0, 1, 1]]), np.full((1, 4), 2)), CELL)
    first, second = middle(out, 0, 0), middle(out, 0, 2)
    assert np.array_equal(first, middle(out, 0, 1))
    assert not np.array_equal(first, second)
    border = out[CELL // 2, CELL - 2 : CELL + 2]
    assert (border == first[0, 0]).all()  # no line inside a token
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
    plain = draw(image, [step([[0, -1, -1, 1]])], side=100)
    heated = draw(image, [step([[0, -1, -1, 1]], scores=scores)], side=100)
    assert heated.width > plain.width


def at(sheet, left, top, row=0, column=0, cell=CELL):
    """The colour in the middle of one cell of a panel whose corner is (left, top)."""
    return sheet.getpixel((left + column * cell + cell // 2, top + row * cell + cell // 2))


def test_any_grid():
    picture = panel(Image.new("L", (300, 20)), step([[0, 1, -1, -1, 2, -1]], grid(2, 3)), side=60)
    assert picture.size == (60, 40)


def test_a_view_may_begin_behind_a_border():
    """Joined tiles whose upper border was cut off count on from it."""
    cut = grid(2, 3) + torch.tensor([0, 1, 3])
    image, owner = Image.new("L", (90, 60)), [[0, 1, -1, -1, 2, -1]]
    pictures = [panel(image, step(owner, where), side=60) for where in (grid(2, 3), cut)]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_a_row_per_view_each_with_its_own_picture_and_grid():
    red, blue = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    one = step([[0, -1, -1, 1, -1, -1, -1, -1, 2, *[-1] * 7]], views((2, 2), (3, 4)))
    sheet = draw([[red, blue]], [one], side=160)
    upper = MARGIN + LINE + GAP // 4
    lower = upper + 160 + 2 * LINE + GAP // 4  # a caption of two lines
    right = MARGIN + 160 + GAP
    assert at(sheet, MARGIN, upper, cell=80) == (255, 0, 0)
    assert at(sheet, right, upper, 1, 1, 80) == (255, 0, 0)
    assert min(at(sheet, right, upper, 0, 1, 80)) > 180
    assert at(sheet, MARGIN, lower, 2, 3, 40) == (0, 0, 255)
    assert at(sheet, right, lower, 1, 0, 40) == (0, 0, 255)
    assert min(at(sheet, right, lower, 0, 0, 40)) > 180
    assert sheet.height == lower + 120 + 2 * LINE + MARGIN


def test_images_of_one_batch_may_have_other_views_and_grids():
    red, blue, green = (Image.new("RGB", (9, 9), c) for c in ("red", "blue", "#00ff00"))
    cells = torch.full((2, 9, 3), -1)
    cells[0, :6] = views((1, 2), (2, 2))[0]
    cells[1] = views((3, 3))[0]
    owner = [[0, -1, 1, 2, 3, 4, -2, -2, -2], [*range(9)]]
    batch = step(owner, cells)
    sheet = draw([[red, blue], green], [batch], side=120)
    alone = draw(green, [step(owner[1:], cells[1:])], side=120)
    below = sheet.crop((0, sheet.height - alone.height + MARGIN, sheet.width, sheet.height))
    right = MARGIN + 120 + GAP
    assert all(at(below, right, 0, r, c, 40) == (0, 255, 0) for r in range(3) for c in range(3))
    with pytest.raises(ValueError, match=r"\[2, 1\] views, and \[1, 1\]"):
        draw([red, green], [batch])


def test_patches_of_one_token_share_a_tint_across_views():
    grey = Image.new("RGB", (8, 8), (128, 128, 128))
    one = step([[0, 1, 1, 2]], views((1, 2), (1, 2)))
    shown = panel([grey, grey], one, side=2 * CELL)
    first = [at(shown, 0, 0, 0, c) for c in range(2)]
    second = [at(shown, 2 * CELL + GAP, 0, 0, c) for c in range(2)]
    assert first[0] == second[1] == (128, 128, 128)
    assert first[1] == second[0] != (128, 128, 128)


def test_a_class_token_has_no_place():
    image = Image.new("RGB", (8, 8), "red")
    cells = torch.tensor([[(0, -1, -1), (0, 0, 0), (0, 0, 1), (-1, -1, -1)]])
    shown = panel(image, step([[0, -1, 1, -2]], cells), side=2 * CELL)
    assert shown.size == (2 * CELL, CELL)
    assert min(at(shown, 0, 0)) > 180
    assert at(shown, 0, 0, 0, 1) == (255, 0, 0)


@pytest.mark.parametrize(("n", "bands", "across"), [(4, 1, 4), (8, 1, 8), (13, 2, 7), (16, 2, 8)])
def test_many_views_are_a_film_strip(n, bands, across):
    frames = [Image.new("RGB", (8, 8), (10 * v, 0, 255)) for v in range(n)]
    owner = [[k for v in range(n) for k in (v, -1, -1, -1)]]
    sheet = draw([frames], [step(owner, views(*[(2, 2)] * n))], side=400)
    cell = 4 * 400 // across // 2
    top, high = MARGIN + LINE + GAP // 4, 2 * cell + LINE + GAP // 4
    assert sheet.width == 2 * MARGIN + across * 2 * cell + (across - 1) * GAP
    assert sheet.height == top + 2 * bands * high - GAP // 4 + MARGIN
    for v in range(n):
        left = MARGIN + v % across * (2 * cell + GAP)
        above = top + v // across * 2 * high
        assert at(sheet, left, above, 1, 1, cell) == (10 * v, 0, 255)
        assert at(sheet, left, above + high, 0, 0, cell) == (10 * v, 0, 255)
        assert min(at(sheet, left, above + high, 1, 1, cell)) > 180


def test_a_lone_picture_loses_its_sides_and_a_listed_one_is_whole():
    wide = Image.new("RGB", (120, 40), "red")
    wide.paste("blue", (40, 0, 80, 40))
    square, oblong = step([[*range(9)]], grid(3, 3)), step([[*range(6)]], grid(2, 3))
    lone, listed = panel(wide, square, side=60), panel([wide], square, side=60)
    assert at(lone, 0, 0) == at(lone, 0, 0, 2, 2) == (0, 0, 255)
    assert [at(listed, 0, 0, 1, c) for c in range(3)] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]
    assert at(panel(wide, oblong, side=60), 0, 0) == (255, 0, 0)  # such a model crops nothing
    said = [
        draw(p, [square], side=90).crop((0, MARGIN + 90, MARGIN + 90, 999))
        for p in (wide, [[wide]])
    ]
    assert (
        said[0].tobytes() != said[1].tobytes()
    )  # the caption of the first says that it shows a part


def test_scores_are_coloured_by_rank_over_all_views_and_gone_patches_fade():
    grey = Image.new("RGB", (8, 8), (128, 128, 128))
    one = step([[0, 1, 2, -1]], views((1, 2), (1, 2)))

    def colours(scores):
        sheet = draw([[grey, grey]], [replace(one, scores=torch.tensor([scores]))], side=400)
        left, upper = MARGIN + 2 * (400 + GAP), MARGIN + LINE + GAP // 4
        lower = upper + 200 + LINE + GAP // 4
        return [at(sheet, left, top, 0, c, 200) for top in (upper, lower) for c in (0, 1)]

    skewed = colours([1e-9, 2e-9, 1.0, torch.nan])
    assert skewed == colours([0.1, 0.2, 0.3, torch.nan])
    assert sum(skewed[0]) < sum(skewed[1]) - 60 < sum(skewed[2]) - 120
    assert len(set(skewed[3])) == 1
    assert skewed[3][0] > 180
    assert set(colours([0.5, 0.5, 0.5, 0.5])) == {skewed[1]}  # neither low nor high


def test_everything_dropped_is_drawn_too():
    assert panel(Image.new("RGB", (8, 8)), step([[-1, -1, -1, -1]]), side=40).size == (40, 40)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([], "no step"),
        ([step([[0, 1, 2, 3], [0, 1, 2, 3]])], "1 images"),
        ([step([[0, 1, 2]])], "no square"),
        ([step([[0, 1]], torch.tensor([[(0, 0, 0), (1, 0, 0)]]))], r"\[2\] views, and \[1\] pict"),
        ([step([[0, 1]], torch.tensor([[(0, -1, -1), (0, -1, -1)]]))], r"\[0\] views"),
    ],
)
def test_what_cannot_be_drawn_says_why(steps, says):
    with pytest.raises(ValueError, match=says):
        draw(Image.new("RGB", (8, 8)), steps)


@pytest.mark.parametrize(("pictures", "says"), [(2, "2 images .* frames"), (1, "views")])
def test_frames_are_the_views_of_one_video(pictures, says):
    frames = [Image.new("RGB", (8, 8))] * pictures
    one = step([[0, 1]], views((1, 1), (1, 1)))
    with pytest.raises(ValueError, match=says):
        draw(frames, [one])
    with pytest.raises(ValueError, match=r"\[2\] views, and \[3\]"):
        draw([[frames[0]] * 3], [one])
    with pytest.raises(ValueError, match=r"\[2\] views, and \[1\]"):
        panels(frames[0], [one])


# 4 × 4: two windows of 2 × 2 and 8 single.
MERGED = [[0, 0, 1, 2, 0, 0, 3, 4, 5, 6, 7, 7, 8, 9, 7, 7]]
PRUNED = [[0, 0, -1, -1, 0, 0, -1, 1, -1, -1, 2, 2, -1, -1, 2, 2]]


def chain(*owners):
    """Steps that follow each other: each begins with what the last one left."""
    steps, before = [], len(owners[0][0])
    for owner in owners:
        steps.append(replace(step(owner, grid(4, 4)), before=torch.tensor([before])))
        before = int(steps[-1].after[0])
    return steps


def test_a_map_says_how_many_patches_a_token_carries_where_that_is_news():
    image, steps = Image.new("RGB", (80, 80), "white"), chain(MERGED, PRUNED)
    merged, pruned = panels(image, steps, side=4 * CELL)
    assert merged.height == 2 * 4 * CELL + GAP // 4
    assert pruned.height == 4 * CELL
    below = 4 * CELL + GAP // 4
    single, window = at(merged, 0, below, 0, 3), at(merged, 0, below)
    assert single == at(merged, 0, below, 3, 1)
    assert window == at(merged, 0, below, 3, 3) != single
    mixed = [tuple(int(0.42 * 255 + 0.58 * c) for c in colour(n)) for n in (1, 4)]
    assert [single, window] == mixed
    again = panels(image, [*steps, *steps], side=4 * CELL)  # another prefill: news again
    assert [p.tobytes() for p in again[2:]] == [p.tobytes() for p in again[:2]]
    assert draw(image, steps, side=80).width > draw(image, steps, side=80, maps=False).width


def test_the_map_fades_what_the_step_dropped_and_joins_views():
    image = Image.new("RGB", (40, 20), "red")
    one = step([[0, -1, 0, 1]], views((1, 2), (1, 2)))
    shown = panels([image, image], [one], side=2 * CELL)[0]
    below, right = CELL + GAP // 4, 2 * CELL + GAP
    assert at(shown, 0, below) == at(shown, right, below) != at(shown, right, below, 0, 1)
    assert len(set(at(shown, 0, below, 0, 1))) == 1  # grey
    assert min(at(shown, 0, below, 0, 1)) > 180


def swatches(sizes):
    """The colours in a legend, those of its words left out."""
    found = legend(np.array(sizes)).getcolors(10_000)
    return {rgb for count, rgb in found if count >= SWATCH**2 and rgb != (255, 255, 255)}


def named(*sizes):
    return {tuple(map(int, colour(n))) for n in sizes}


def test_the_legend_names_the_sizes_there_are():
    assert swatches([16, 1, 4, 4]) == named(1, 4, 16)
    assert swatches([2, 3, 5, 7, 11, 13, 17]) == named(2, 4, 8, 16)
    assert len(named(1, 2, 4, 8, 16, 32, 64)) == 7
    assert named(64) == named(65) == named(1000)


def test_a_legend_wider_than_its_panel_widens_the_column():
    narrow = draw(Image.new("RGB", (8, 8)), chain(MERGED), side=40)
    assert narrow.width > MARGIN + legend(np.array([1, 4])).width + 2 * 40


def test_many_panels_go_on_in_the_next_row():
    image, dropping = Image.new("RGB", (8, 8)), [[0, -1, -1, 1]]
    few = draw(image, [step(dropping)] * (ACROSS - 1), side=200)
    many = draw(image, [step(dropping)] * ACROSS, side=200)
    assert many.width == few.width == 2 * MARGIN + ACROSS * 200 + (ACROSS - 1) * GAP
    assert (
        many.height == few.height + 200 + 2 * LINE + GAP // 4
    )  # "before decoder layer 2: 2 of / 4 tokens"


def scored(*rows):
    return [step([[0, 1, 2, 3]], scores=torch.tensor([row])) for row in rows]


def test_heatmaps_show_nothing_but_what_steps_went_by():
    image, steps = Image.new("RGB", (8, 8), "blue"), scored([1.0, 2, 3, 4], [4.0, 3, 2, 1])
    sheet = heatmaps(image, steps, ["one", "two"], side=100, across=2)
    key = LINE + MARGIN  # the colours, low to high
    assert sheet.size == (2 * MARGIN + 200 + GAP, 2 * (MARGIN + 100 + LINE) + GAP // 4 + key)
    first, second = (MARGIN + 100 + GAP, MARGIN), (MARGIN, MARGIN + 100 + LINE + GAP // 4)
    rises, falls = (
        [at(sheet, *corner, k // 2, k % 2, 50) for k in range(4)] for corner in (first, second)
    )
    assert rises == falls[::-1]
    assert sum(rises[0]) < sum(rises[3]) - 100
    with pytest.raises(ValueError, match="no scores to draw at language 2"):
        heatmaps(image, chain(PRUNED)[:1], ["one"])


def test_a_caption_says_that_scores_are_all_alike():
    image = Image.new("RGB", (8, 8))
    alike, others = (draw(image, scored(row), side=100) for row in ([1.0] * 4, [1.0, 1, 1, 2]))
    box = (MARGIN + 2 * (100 + GAP), MARGIN + 100, alike.width, alike.height)
    assert alike.crop(box).tobytes() != others.crop(box).tobytes()
