"""What a question asks about is where the truth says, in pixels and in patches."""

from itertools import groupby

import numpy as np
import pytest

from foveate.patchqa import (
    DIGIT_REGION,
    KINDS,
    SIGN_REGION,
    PatchQA,
    Scene,
    asked_regions,
    patches_of,
)
from foveate.patchqa.words import COLORS, SHAPES

NOTHING = {("exists", "no"), ("count", "0")}


def test_a_question_is_about_what_it_names():
    """Read from its words, independently of how it was made."""
    seen = set()
    for index in range(150):
        scene = PatchQA("train", questions=20)[index]
        for question in scene.questions:
            assert (question.about, question.picture) == (meant(scene, question), 0), question
            seen.add((question.kind, bool(question.about)))
    assert {kind for kind, some in seen if some} == set(KINDS) - {"background"}
    assert {kind for kind, some in seen if not some} == {"background", "exists", "count"}


def meant(scene: Scene, question) -> tuple[int, ...]:
    """The regions that a question names, in the order it names them."""
    regions = {"sign": (SIGN_REGION,), "digit": (DIGIT_REGION,), "background": ()}
    if question.kind in regions:
        return regions[question.kind]
    if question.kind == "place":
        words = question.answer.split()
    elif question.kind == "shape":
        words = [w for w in question.text.split() if w in COLORS]
    else:
        words = [w for w in question.text.split() if w in COLORS or w in SHAPES]
    things = scene.pictures[0].objects
    if question.kind in ("side", "direction"):
        pairs = [tuple(words[:2]), tuple(words[2:])]
        at = [(thing.color, thing.shape) for thing in things]
        return tuple(at.index(pair) + 1 for pair in pairs)
    fits = [set(words) <= {thing.color, thing.shape} for thing in things]
    if question.kind == "place":
        # The same look may stand there twice; the one asked about lies in the named ninth.
        row, column = question.text.split()[5:7]
        ninth = (
            ("left", "center", "right").index(column),
            ("top", "middle", "bottom").index(row),
        )
        fits = [
            f and tuple(3 * c // 96 for c in thing.center) == ninth
            for f, thing in zip(fits, things, strict=True)
        ]
    return tuple(number for number, fit in enumerate(fits, start=1) if fit)


def test_examples_carry_what_they_ask_about():
    examples = PatchQA("test", seed=1).examples(220)
    by_kind = {kind: [*some] for kind, some in groupby(sorted(examples, key=kind_of), key=kind_of)}
    for example in examples:
        (asked,) = example.asked
        assert asked.shape == (96, 96) and asked.dtype == np.uint8
        nothing = example.kind == "background" or (example.kind, example.answer) in NOTHING
        assert bool(asked.any()) != nothing
    for kind, number in (("sign", SIGN_REGION), ("digit", DIGIT_REGION)):
        assert all(set(np.unique(e.asked[0])) == {0, number} for e in by_kind[kind])
    for example in by_kind["color"]:
        pixels = np.asarray(example.images[0])[example.asked[0] > 0].mean(axis=0)
        near = min(COLORS, key=lambda name: np.abs(pixels - COLORS[name]).sum())
        assert near == example.answer
    for kind in ("side", "direction"):
        assert all(len(np.unique(e.asked[0])) == 3 for e in by_kind[kind])
    assert all(len(np.unique(e.asked[0])) - 1 == int(e.answer) for e in by_kind["count"])


def kind_of(example) -> str:
    return example.kind


def test_of_several_pictures_only_one_is_asked_about():
    for example in PatchQA("test", images=3).examples(22):
        which = ("first", "second", "third").index(example.question.split()[2])
        assert len(example.asked) == 3
        assert all(not asked.any() for i, asked in enumerate(example.asked) if i != which)
    scene = PatchQA("test", images=3)[0]
    for question in scene.questions:
        which = ("first", "second", "third").index(question.text.split()[2])
        assert question.picture == which
        regions = set(np.unique(scene.pictures[which].regions))
        assert set(question.about) <= regions


def test_asked_regions_keep_their_numbers():
    picture = next(
        p for i in range(20) for p in PatchQA("val")[i].pictures if p.sign and p.digit is not None
    )
    sign = asked_regions(picture, (SIGN_REGION,))
    assert np.array_equal(sign > 0, picture.regions >= SIGN_REGION) and sign.max() == SIGN_REGION
    both = asked_regions(picture, (1, DIGIT_REGION))
    assert np.array_equal(both == 1, picture.regions == 1)
    assert np.array_equal(both == DIGIT_REGION, picture.regions == DIGIT_REGION)
    assert not asked_regions(picture, ()).any()


def test_a_patch_belongs_by_coverage():
    regions = np.zeros((16, 24), dtype=np.uint8)
    regions[:8, :8] = 1  # all of one patch
    regions[:8, 8:10] = 1  # a quarter of the next
    regions[:8, 16] = 1  # an eighth of the third
    regions[12, 20] = 2  # one pixel of a region that is nowhere else
    want = [[True, True, False], [False, False, True]]
    assert patches_of(regions).tolist() == want
    assert patches_of(regions, least=0.26).tolist() == [[True, False, False], want[1]]
    assert patches_of(regions, least=0.125).tolist() == [[True, True, True], want[1]]
    assert not patches_of(np.zeros_like(regions)).any()
    thin = np.zeros((16, 16), dtype=np.uint8)
    thin[8, 2:14] = 7  # six pixels on each side: the first of equals
    assert patches_of(thin).tolist() == [[False, False], [True, False]]
    for side in (0, 5):
        with pytest.raises(ValueError, match=f"side={side}.*16 and 24"):
            patches_of(regions, side)


def test_every_region_has_a_patch_and_no_patch_is_far_from_its_region():
    for example in PatchQA("test").examples(110):
        asked = example.asked[0]
        found = patches_of(asked)
        assert found.shape == (12, 12)
        for row, column in np.argwhere(found):
            assert asked[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].any()
        for number in set(np.unique(asked)) - {0}:
            cells = (asked == number).reshape(12, 8, 12, 8).any(axis=(1, 3))
            assert (found & cells).any()
