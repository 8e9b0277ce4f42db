"""Everything wrong with a set is listed before training: lines, files, pictures."""

from __future__ import annotations

import json
import warnings

import pytest
from PIL import Image
from processors import image

from foveate.chat import pictures
from foveate.train.data import Problem, Record, Records, Turn, check, listed

TURNS = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "!"}]


@pytest.fixture
def folder(tmp_path):
    """Pictures, good and bad."""
    noise = image(1, 200, 300)
    noise.save(tmp_path / "good.jpg", quality=95)
    noise.save(tmp_path / "good.png")
    Image.new("P", (30, 30)).save(tmp_path / "palette.gif")
    Image.new("RGBA", (30, 30)).save(tmp_path / "clear.webp")
    Image.new("L", (3, 300)).save(tmp_path / "line.png")
    Image.new("L", (5, 600)).save(tmp_path / "strip.png")
    for name in ("good.jpg", "good.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("good", "cut")).write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def records(folder, names) -> Records:
    """One record per name; what is no name is a line as it is."""
    lines = [
        name if name.startswith("{") else json.dumps({"image": name, "conversations": TURNS})
        for name in names
    ]
    (folder / "set.jsonl").write_text("\n".join(lines))
    return Records(folder / "set.jsonl", folder)


def test_a_sound_set_has_no_problems(folder):
    assert check(records(folder, ["good.jpg", "good.png", "palette.gif", "clear.webp"])) == []


BAD = {
    "gone.jpg": ("missing image", "no such image"),
    "cut.jpg": ("broken image", "truncated"),
    "cut.png": ("broken image", "truncated"),
    "text.png": ("broken image", "is no image that can be read: want PNG"),
    "empty.png": ("broken image", "0 bytes"),
    "folder.png": ("broken image", "is no file"),
    "line.png": ("size of an image", "3 x 300 pixels: want at least 4"),
    "strip.png": ("size of an image", "5 x 600 pixels: want at most 100 times"),
    "{oh": ("broken JSON", "broken JSON: Expecting"),
    '{"id": 1}': ("conversations", '"conversations" is missing'),
}


def test_all_that_is_wrong_is_listed_in_order_with_its_line(folder):
    names = [name for bad in BAD for name in ("good.jpg", bad)]
    found = check(records(folder, names), workers=3)
    assert [p.where for p in found] == [
        f"set.jsonl: record {2 * n} ({named}line {2 * n})"
        for n, named in enumerate(("1, " if '"id"' in bad else "" for bad in BAD), 1)
    ]
    for problem, (name, (kind, words)) in zip(found, BAD.items(), strict=True):
        assert problem.kind == kind and words in problem.what
        assert str(problem) == f"{problem.where}: {problem.what}"
        assert name.startswith("{") or str(folder / name) in problem.what


def test_several_problems_of_one_record(folder):
    turns = [{"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": "!"}]
    value = {"image": ["gone.jpg", "cut.jpg"], "conversations": turns}
    found = check(records(folder, [json.dumps(value)]))
    assert [p.kind for p in found] == ["missing image", "broken image"]
    turns[0]["from"], turns[1]["value"] = "robot", ""
    found = check(records(folder, [json.dumps(value)]))
    assert [p.kind for p in found] == ["roles", "empty answer"]


def test_more_pixels_than_pillow_trusts_are_a_problem(folder, monkeypatch):
    data = records(folder, ["good.png"])
    for most in (59_999, 20_000):  # Pillow warns above its limit and refuses above twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if most > 30_000 else "error")
            assert [p.kind for p in check(data)] == ["size of an image"]


def test_a_picture_is_decoded_once_and_named_for_every_record(folder, monkeypatch):
    seen = []
    opened = pictures.trouble
    monkeypatch.setattr(
        "foveate.records.checking.trouble", lambda path: seen.append(path.name) or opened(path)
    )
    monkeypatch.setattr("foveate.records.checking.WINDOW", 2)
    found = check(records(folder, ["gone.jpg", "good.jpg", "gone.jpg", "good.jpg", "gone.jpg"]))
    assert [p.where for p in found] == [f"set.jsonl: record {n} (line {n})" for n in (1, 3, 5)]
    assert sorted(seen) == ["gone.jpg", "good.jpg"]


def test_progress_adds_up(folder, monkeypatch):
    monkeypatch.setattr("foveate.records.checking.WINDOW", 3)
    steps = []
    check(records(folder, ["good.png"] * 8), advance=steps.append)
    assert steps == [3, 3, 2]


def test_pictures_in_memory_are_looked_at_too():
    turns = (Turn("user", "<image>?"), Turn("assistant", "!"))
    made = [Record("a", (image(n, width),), turns, f"row {n}") for n, width in enumerate((40, 2))]
    assert [p.where for p in check(made)] == ["row 1"]


def test_a_long_list_is_told_briefly():
    few = [Problem(f"line {n}", f"no file {n}", "missing image") for n in range(3)]
    assert listed(few) == "line 0: no file 0\nline 1: no file 1\nline 2: no file 2"
    many = few * 10 + [Problem("line 9", "broken", "broken image")] * 1200
    lines = listed(many).split("\n")
    assert lines[:3] == listed(few).split("\n") and len(lines) == 21
    assert lines[-1] == "… and 1,210 more: broken image 1,200, missing image 10"
    assert listed([]) == ""
