"""The dataset is the same for ever, balanced, and true about its own pictures."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from foveate.patchqa import (
    DIGIT_REGION,
    GROUPS,
    KINDS,
    SIGN_REGION,
    PatchQA,
    Scene,
    language_prior,
    vocabulary,
)
from foveate.patchqa import assets as asset_file
from foveate.patchqa.words import COLORS
from foveate.tasks import TASKS

# Version 1 of the dataset is these bytes. Whoever changes them makes version 2.
HASHES = {
    "train": ["e915e324babb11bf", "7c329db45c06e983", "5110bfc8c75ba0da"],
    "val": ["a24331ace1387167", "bc722d139aebc4c3", "e10ae5e4e28c1f75"],
    "test": ["fd5aaafa4795748a", "38b55e8dfd2a5e14", "483dea71eca012dd"],
    "fine": ["397489a9fe41fd54", "b8d891e6bdb6e856", "641a955120e7e1eb"],
    "2x": ["9e4820921820fa00", "8e804d977ebb879c", "97fdf434511d7768"],
    "tiny": ["ab008357976afbf7", "38b55e8dfd2a5e14", "fa4404f50d736d11"],
    "three": ["16598e9381a90bac", "3cc4b16a138a2358", "840f9b0ed1e43236"],
}


def digest(scene: Scene) -> str:
    """A hash of all pixels, regions and questions."""
    hasher = hashlib.sha256()
    for picture in scene.pictures:
        hasher.update(picture.pixels.tobytes() + picture.regions.tobytes())
    for question in scene.questions:
        hasher.update(f"{question.text}|{question.answer}|{question.kind}\n".encode())
    return hasher.hexdigest()[:16]


VARIANTS = {
    "train": PatchQA("train"),
    "val": PatchQA("val", seed=7),
    "test": PatchQA("test"),
    "fine": PatchQA("test", size=192, objects=(5, 9)),
    "2x": PatchQA("test", **TASKS["patchqa-2x"]),
    "tiny": PatchQA("test", text="tiny"),
    "three": PatchQA("test", images=3),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_scenes_are_the_same_everywhere(name):
    task = VARIANTS[name]
    assert [digest(task[index]) for index in (0, 1, 99)] == HASHES[name]


def test_scene_does_not_depend_on_what_was_asked_before():
    task = PatchQA("train")
    before = digest(task[5])
    task.examples(20)
    assert digest(task[5]) == before == digest(PatchQA("train")[5])
    assert digest(PatchQA("train", seed=1)[5]) != before


def test_examples_ask_every_kind_equally_often():
    examples = PatchQA("test").examples(110)
    assert Counter(example.kind for example in examples) == dict.fromkeys(KINDS, 10)
    assert len({example.key for example in examples}) == 110
    assert examples[:30] == PatchQA("test").examples(30)
    assert {example.group for example in examples} == set(GROUPS)


def test_every_word_is_in_the_vocabulary():
    words = set(vocabulary())
    assert len(words) == len(vocabulary()) < 130
    for task in (PatchQA("train"), PatchQA("val", images=3, size=192, objects=(1, 9))):
        for index in range(60):
            for question in task[index].questions:
                assert set(f"{question.text} {question.answer}".split()) <= words


@pytest.mark.parametrize("task", VARIANTS.values(), ids=VARIANTS)
def test_regions_tell_where_things_are(task):
    for index in range(20):
        for picture in task[index].pictures:
            assert picture.pixels.shape == (task.size, task.size, 3)
            assert picture.pixels.dtype == picture.regions.dtype == np.uint8
            assert task.objects[0] <= len(picture.objects) <= task.objects[1]
            expected = set(range(1, len(picture.objects) + 1))
            expected |= {DIGIT_REGION} if picture.digit is not None else set()
            expected |= set(range(SIGN_REGION, SIGN_REGION + 4)) if picture.sign else set()
            assert set(np.unique(picture.regions)) - {0} == expected
            for number, thing in enumerate(picture.objects, start=1):
                rows, columns = np.nonzero(picture.regions == number)
                left, top, right, bottom = thing.box
                assert left <= columns.min() and columns.max() < right
                assert top <= rows.min() and rows.max() < bottom
                mean = picture.pixels[rows, columns].mean(axis=0)
                near = min(COLORS, key=lambda c: np.abs(mean - COLORS[c]).sum())
                assert near == thing.color


def test_answers_are_true():
    for index in range(200):
        scene = PatchQA("train", questions=20)[index]
        things = scene.pictures[0].objects
        for question in scene.questions:
            words = question.text.split()
            if question.kind == "exists":
                there = any((thing.color, thing.shape) == tuple(words[3:5]) for thing in things)
                assert question.answer == ("yes" if there else "no")
            elif question.kind == "count":
                word = words[2]
                counted = [t for t in things if word in ("objects", t.color, t.shape)]
                assert question.answer == str(len(counted))
            elif question.kind == "color":
                assert [t.color for t in things if t.shape == words[4]] == [question.answer]
            elif question.kind == "side" and words[4] == "left":
                first, second = (
                    next(t for t in things if [t.color, t.shape] == pair)
                    for pair in (words[2:4], words[7:9])
                )
                assert (question.answer == "yes") == (first.center[0] < second.center[0])


def test_splits_share_no_asset():
    splits = [asset_file.load(split) for split in ("train", "val", "test")]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        a, b = splits[first], splits[second]
        assert not {x.tobytes() for x in a.digits} & {x.tobytes() for x in b.digits}
        for text in a.glyphs:
            same = (a.glyphs[text][:, None] == b.glyphs[text][None]).all(axis=(-1, -2)).all(axis=-1)
            assert not same.any()
        for name, tiles in a.textures.items():
            some = set().union(*(strips(tile[::4]) for tile in tiles))
            assert not some & set().union(*map(strips, b.textures[name]))


def strips(tile: np.ndarray) -> set[bytes]:
    """All rows of 32 pixels of a texture, but for flat ones, which may well be alike."""
    windows = np.lib.stride_tricks.sliding_window_view(tile[..., 0].astype(np.int8), 32, axis=1)
    windows = windows.reshape(-1, 32)
    return {strip.tobytes() for strip in windows[windows.std(axis=1) > 10]}


@pytest.mark.slow
def test_guessing_from_the_words_does_not_pay():
    prior = language_prior(PatchQA("test"), n=1100, learn_from=10_000)
    assert prior["overall"] <= 0.30
    assert prior["side"] < 0.62 and prior["exists"] < 0.62 and prior["count"] < 0.45


def test_yes_and_no_are_level():
    answers = {"side": Counter(), "exists": Counter()}
    for index in range(400):
        for question in PatchQA("train")[index].questions:
            if question.kind in answers:
                answers[question.kind][question.answer] += 1
    for counted in answers.values():
        assert 0.4 < counted["yes"] / counted.total() < 0.6


def test_weights_choose_the_kinds():
    only_signs = {kind: int(kind == "sign") for kind in KINDS}
    scenes = [PatchQA("train", weights=only_signs)[index] for index in range(30)]
    assert {q.kind for scene in scenes for q in scene.questions} == {"sign"}


def test_several_pictures_are_named_in_the_question():
    scene = PatchQA("test", images=3)[0]
    assert len(scene.images) == 3
    assert all(q.text.startswith("in the ") and " picture " in q.text for q in scene.questions)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"split": "dev"}, {"text": "huge"}, {"size": 100}, {"images": 4}),
        *({"objects": (0, 3)}, {"objects": (4, 2)}, {"weights": {"smell": 1}}),
    ],
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(PatchQA(), **wrong)


def test_index_beyond_the_end():
    with pytest.raises(IndexError):
        PatchQA("test")[len(PatchQA("test"))]
