"""skip=True: records that cannot be trained on are left out, counted, listed, and the same after a resume."""

from __future__ import annotations

import json
import shutil

import pytest
import small

from foveate.cli import run as typed
from foveate.train import DataError, run


@pytest.fixture
def bad(data, tmp_path):
    """The set and its pictures in a folder, some of them bad: an empty answer, pictures that are none."""
    folder = tmp_path / "set"
    shutil.copytree(data.parent, folder)
    values = json.loads(data.read_text())[:12]
    values[3]["conversations"][1]["value"] = ""
    values[3]["image"] = ["3.png"]
    (folder / "4.png").unlink()
    (folder / "7.png").write_bytes(b"")
    (folder / "set.json").write_text(json.dumps(values))
    return folder / "set.json"


def sound(file):
    """The same set without them."""
    values = json.loads(file.read_text())
    kept = [value for value in values if value["id"] not in ("3", "4", "7")]
    path = file.with_name("sound.json")
    path.write_text(json.dumps(kept))
    return path


FEW = {"batch": 4, "micro_batch": 4, "save_every": 1}
SAYS = r"set\.json: 3 of 12 records are left out, the first: set"
LEFT_OUT = pytest.warns(UserWarning, match=SAYS)


def test_it_is_as_if_they_were_not_there(model, bad, tmp_path):
    """Epochs count what is left; losses and weights are those of the set without them."""
    some = {**FEW, "split": True, "order": "grouped", "steps": None}
    with LEFT_OUT:
        found = run(small.card(model, bad, skip=True, **some), tmp_path / "a")
    want = run(small.card(model, sound(bad), **some), tmp_path / "b")
    assert (found["records"], found["steps"]) == (want["records"], want["steps"])
    assert found["records"] == 9
    assert small.losses(found) == small.losses(want)
    small.alike(tmp_path / "a", tmp_path / "b")
    skipped = json.loads((tmp_path / "a" / "training.json").read_text())["skipped"]
    assert skipped["records"] == 3
    told = {one["where"]: one["what"] for one in skipped["first"]}
    assert told == {
        'set.json: record 4 ("3", line 1)': "turn 2 is an empty answer",
        'set.json: record 5 ("4", line 1)': f"no such image: {bad.parent / '4.png'}",
        'set.json: record 8 ("7", line 1)': f"{bad.parent / '7.png'} is empty (0 bytes)",
    }
    assert "skipped" not in want


def cut_off(recipe, out):
    """A run that stops behind its second checkpoint."""

    def advance(step, steps, now):
        if step == 2 and "loss" in now:
            raise KeyboardInterrupt

    with LEFT_OUT, pytest.raises(KeyboardInterrupt):
        run(recipe, out, advance=advance)
    assert not (out / "training.json").exists()


def test_a_run_goes_on_without_the_same_ones(model, bad, tmp_path):
    """Also if one was mended meanwhile; another that went bad stops it, and says so."""
    recipe, out = small.card(model, bad, skip=True, **FEW, steps=4), tmp_path / "a"
    with LEFT_OUT:
        whole = run(recipe, tmp_path / "whole")
    cut_off(recipe, out)

    picture = (bad.parent / "8.png").read_bytes()
    (bad.parent / "8.png").write_bytes(picture[:50])
    with pytest.raises(DataError, match=r'record 9 \("8", line 1\)') as caught:
        run(recipe, out, resume=True)
    *problems, last = str(caught.value).splitlines()
    assert len(problems) == 1
    assert last.endswith("since the run began, which goes on with the records it had")
    (bad.parent / "8.png").write_bytes(picture)

    (bad.parent / "4.png").write_bytes(picture)
    with LEFT_OUT:
        done = run(recipe, out, resume=True)
    assert small.losses(done) == small.losses(whole)
    assert done["skipped"] == whole["skipped"]
    small.alike(out, tmp_path / "whole")


def test_a_run_that_cannot_know_what_it_left_out(model, bad, tmp_path):
    recipe, out = small.card(model, bad, skip=True, **FEW, steps=4), tmp_path / "a"
    cut_off(recipe, out)
    values = json.loads(bad.read_text())
    bad.write_text(json.dumps(values[1:]))
    with pytest.raises(
        ValueError, match="the run began with 12 records, and the files have 11 now"
    ):
        run(recipe, out, resume=True)
    bad.write_text(json.dumps(values))
    for text in ('{"sets": [', '{"sets": [{}]}', "[]"):
        (out / "skipped.json").write_text(text)
        with pytest.raises(ValueError, match=r"skipped\.json does not say which records"):
            run(recipe, out, resume=True)


def test_validation_is_left_out_of_too(model, data, bad, tmp_path):
    recipe = small.card(
        model, data, skip=True, validation=str(bad), images=str(bad.parent), steps=1
    )
    (bad.parent / "1.png").unlink()
    with pytest.warns(UserWarning) as told:
        run(recipe, tmp_path / "out")
    lines = [str(one.message) for one in told]
    assert [line.partition(": ")[2].partition(",")[0] for line in lines] == [
        "3 of 30 records are left out",
        "4 of 12 records are left out",
    ]


def test_what_skip_cannot_do(model, bad, tmp_path, capsys):
    values = json.loads(bad.read_text())
    bad.write_text(json.dumps([values[3], values[4]]))
    recipe = small.card(model, bad, skip=True, steps=1)
    none_left = pytest.raises(DataError, match="and no record without one")
    with none_left, pytest.warns(UserWarning, match="2 of 2"):
        run(recipe, tmp_path / "out")
    with pytest.raises(ValueError, match="the check finds what to leave out"):
        run(small.card(model, bad, skip=True, check=False, steps=1), tmp_path / "other")
    assert typed(["train", "patchqa", "--set", "skip=true", "--out", str(tmp_path / "task")]) == 2
    assert "skip=True leaves out records of files" in capsys.readouterr().err


def test_captions_and_other_keys_are_told(model, bad, tmp_path):
    """Conversations that are no captions are left out of pre-training; keys that nothing reads are named."""
    values = json.loads(bad.read_text())
    for value in values:
        value["width"] = 3
    bad.write_text(json.dumps(values))
    recipe = small.card(model, bad, skip=True, template="plain", batch=2, micro_batch=2, steps=1)
    with pytest.warns(UserWarning) as told:
        found = run(recipe, tmp_path / "out")
    lines = [str(one.message) for one in told]
    assert lines[0] == f"{bad}: keys that are not read, and in how many records: 'width' in 12"
    assert "7 of 12 records are left out" in lines[1]
    whats = [one["what"] for one in found["skipped"]["first"]]
    assert sum("wants one caption, not 2" in what for what in whats) == 5


def test_outside_and_skip_on_the_command_line(model, bad, tmp_path, capsys):
    values = json.loads(bad.read_text())
    values[1]["image"] = "../elsewhere.png"
    shutil.copy(bad.parent / "1.png", tmp_path / "elsewhere.png")
    bad.write_text(json.dumps(values))
    words = small.words(small.card(model, bad, **FEW, steps=1))
    assert typed(["train", *words, "--out", str(tmp_path / "a")]) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith('set.json: record 2 ("1", line 1): ') and "--set outside=true" in first
    assert last == f"foveate: 4 problems in {bad}"
    words += ["--set", "outside=true", "--set", "skip=true"]
    assert typed(["train", *words, "--out", str(tmp_path / "b")]) == 0
    out, err = capsys.readouterr()
    assert "3 records left out" in out and "3 of 12 records are left out" in err


def test_a_single_record_is_told_as_one(model, bad, tmp_path, capsys):
    values = json.loads(bad.read_text())
    bad.write_text(json.dumps([values[0], None, *values[8:]]))
    words = small.words(small.card(model, bad, **FEW, steps=1, skip=True))
    assert typed(["train", *words, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert ", 1 record left out" in out and "1 of 6 records is left out, the first: set" in err


@pytest.mark.full
def test_every_process_leaves_out_the_same(model, bad, tmp_path):
    words = small.words(small.card(model, bad, skip=True, batch=4, micro_batch=2, steps=3))
    done = small.foveate("train", *words, "--out", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "two" / "training.json").read_text())
    assert (document["records"], document["skipped"]["records"]) == (9, 3)
    with LEFT_OUT:
        alone = run(
            small.card(model, bad, skip=True, batch=4, micro_batch=4, steps=3), tmp_path / "one"
        )
    assert small.losses(document) == pytest.approx(small.losses(alone), rel=1e-4)
