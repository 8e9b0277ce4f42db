"""What is cut, empty, missing or changed in a run's folder is noticed, said, and never gone on from."""

from __future__ import annotations

import json
import shutil

import pytest
import small
from mutations import put
from safetensors.torch import load_file, save_file

from foveate.keeping.provenance import sealed
from foveate.train import checkpoints, manifest, run

WHOLE = {**small.LEARNED, "steps": 5}
LORA = {**WHOLE, **small.ADAPTERS}
KINDS = {"whole": WHOLE, "adapters": LORA}
FILES = {
    "whole": {"model.safetensors", "config.json", "tokenizer.json"},
    "adapters": {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"},
}
STATES = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


def flipped(path):
    """One bit, in the middle."""
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "flipped": flipped,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture
def copied(unbroken, tmp_path):
    """A folder of a run that was killed just before its end, behind its last checkpoint; to be damaged."""

    def copy(kind, finished=False):
        shutil.copytree(unbroken(**KINDS[kind])[0], tmp_path, dirs_exist_ok=True)
        if not finished:
            (tmp_path / "training.json").unlink()
        return tmp_path

    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_to_any_file_of_a_checkpoint_is_noticed(copied, kind):
    out = copied(kind)
    last = out / "checkpoint-5"
    files = [path for path in sorted(last.rglob("*")) if path.is_file()]
    assert {path.name for path in files} >= FILES[kind] | STATES | {"manifest.json"}
    for path in files:
        kept = path.read_bytes()
        for how, spoil in DAMAGE.items():
            spoil(path)
            assert checkpoints.last_whole(out) == out / "checkpoint-4", (path.name, how)
            assert path.name in checkpoints.damage(last)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(kept)
    assert checkpoints.last_whole(out) == last


CASES = [
    ("whole", "optimizer.pt", "cut"),
    ("adapters", "adapter_model.safetensors", "flipped"),
    *[
        pytest.param(kind, name, how, marks=pytest.mark.full)
        for kind in KINDS
        for name in sorted(FILES[kind] | STATES | {"manifest.json"})
        for how in ("missing", "empty", "cut", "flipped")
    ],
]


@pytest.mark.parametrize(("kind", "name", "how"), CASES)
@pytest.mark.filterwarnings("ignore:.*is removed")
def test_a_run_that_goes_on_behind_damage_is_the_run_without_it(
    card, copied, unbroken, kind, name, how
):
    out = copied(kind)
    DAMAGE[how](out / "checkpoint-5" / name)
    small.same(out, run(card(**KINDS[kind]), out, resume=True), *unbroken(**KINDS[kind]))
    assert checkpoints.last_whole(out) == out / "checkpoint-5"  # written again


def test_the_damage_is_said(card, copied):
    out = copied("whole")
    path = out / "checkpoint-5" / "optimizer.pt"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:100])
    said = rf"checkpoint-5 is removed, optimizer\.pt has 100 bytes of {size:,}: going on from"
    with pytest.warns(UserWarning, match=said):
        assert checkpoints.open_folder(card(**WHOLE).as_dict(), out) == out / "checkpoint-4"
    assert not (out / "checkpoint-5").exists()
    shutil.rmtree(out / "checkpoint-2")
    (out / "checkpoint-4" / "rng_state.pth").unlink()
    with pytest.warns(UserWarning, match=r"rng_state\.pth is missing: going on from the beginning"):
        assert checkpoints.open_folder(card(**WHOLE).as_dict(), out) is None


def test_an_earlier_foveate_left_no_manifests(card, copied, unbroken):
    """Its checkpoints and its result count as they did then."""
    out = copied("whole", finished=True)
    for step in (2, 4, 5):
        (out / f"checkpoint-{step}" / "manifest.json").unlink()
    small.unmarked(out)
    assert checkpoints.last_whole(out) == out / "checkpoint-5"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"):
        (out / "checkpoint-5" / name).rename(out / "aside")
        assert checkpoints.damage(out / "checkpoint-5") == f"{name} is missing"
        (out / "aside").rename(out / "checkpoint-5" / name)
    told = json.loads((out / "training.json").read_text())
    old = {k: v for k, v in told.items() if k not in ("seal", "files")}
    (out / "training.json").write_text(json.dumps(old))
    assert run(card(**WHOLE), out, resume=True) == old


def test_a_run_of_an_earlier_foveate_says_of_manifests_once_all_have_one(card, copied):
    out, recipe = copied("whole"), card(**WHOLE).as_dict()
    small.unmarked(out)
    (out / "checkpoint-2" / "manifest.json").unlink()
    marked = []
    for _ in range(2):
        checkpoints.open_folder(recipe, out)
        marked.append(json.loads((out / "recipe.json").read_text())["manifests"])
        checkpoints.rotate(out, 2)
    assert marked == [False, True]
    (out / "checkpoint-5" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match=r"checkpoint-5 is removed, manifest\.json is missing"):
        assert checkpoints.open_folder(recipe, out) == out / "checkpoint-4"
    assert json.loads((out / "recipe.json").read_text())["manifests"]


def test_folders_of_a_person_are_no_checkpoints(card, copied, tmp_path):
    out, recipe = copied("whole"), card(**WHOLE).as_dict()
    (out / "checkpoint-999").mkdir()
    (out / "checkpoint-999" / "notes.txt").write_text("mine")
    assert checkpoints.open_folder(recipe, out) == out / "checkpoint-5" == checkpoints.newest(out)
    checkpoints.rotate(out, 1)
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-999"]
    assert (out / "checkpoint-999" / "notes.txt").read_text() == "mine"


def test_settings_that_a_person_edits_stay(card, copied):
    out = copied("whole", finished=True)
    path = out / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    edited, before = path.read_text(), (out / "model.safetensors").stat().st_mtime_ns
    run(card(**WHOLE), out, resume=True)
    assert path.read_text() == edited
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    path.unlink()
    with pytest.warns(UserWarning, match=r"was finished, but tokenizer_config\.json is missing"):
        checkpoints.open_folder(card(**WHOLE).as_dict(), out)


@pytest.mark.parametrize("name", ["model.safetensors", "training.json"])
@pytest.mark.filterwarnings("ignore:.*was finished, but")
def test_a_finished_model_that_is_damaged_is_finished_again(card, copied, unbroken, name):
    out = copied("whole", finished=True)
    DAMAGE["cut"](out / name)
    small.same(out, run(card(**WHOLE), out, resume=True), *unbroken(**WHOLE))
    # The fifth step is the last, though no epoch ends there.
    assert not (out / "checkpoint-6").exists()
    assert checkpoints.result(out, card(**WHOLE).as_dict()) is not None


NO_RESULT = {  # what a seal tells is shown in test_kept
    "cut": '{"recipe": {',
    "no UTF-8": b"\xff",
    "changed": lambda d: {**d, "steps": 50},
    "a folder": "folder",
}


@pytest.mark.parametrize("name", NO_RESULT)
def test_a_result_that_is_none_is_noticed_and_said(card, copied, name):
    out, strange, recipe = copied("whole", finished=True), NO_RESULT[name], card(**WHOLE).as_dict()
    if callable(strange):
        strange = json.dumps(strange(json.loads((out / "training.json").read_text())))
    put(out, "training.json", strange)
    assert checkpoints.result(out, recipe) is None
    said = r"was finished, but training\.json .*: going on from checkp"
    with pytest.warns(UserWarning, match=said):
        assert checkpoints.open_folder(recipe, out) == out / "checkpoint-5"
    assert not (out / "training.json").exists()


def test_a_finished_model_without_checkpoints_is_not_trained_over(card, copied):
    out = copied("whole", finished=True)
    for step in (2, 4, 5):
        shutil.rmtree(out / f"checkpoint-{step}")
    weights = load_file(out / "model.safetensors")
    save_file({n: w + 1 for n, w in weights.items()}, out / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors has .*, and there is no checkpoint"):
        run(card(**WHOLE), out, resume=True)


@pytest.mark.parametrize("text", ["[]", "{}", '{"name": "a"', b"\xff", "folder"])
def test_a_recipe_that_is_none_is_an_error_of_one_line(card, copied, text):
    out = copied("whole")
    put(out, "recipe.json", text)
    with pytest.raises(ValueError, match=r"recipe\.json is no recipe") as caught:
        run(card(**WHOLE), out, resume=True)
    assert "\n" not in str(caught.value)
    assert checkpoints.last_whole(out) == out / "checkpoint-5"  # nothing was touched


def test_a_manifest_speaks_for_folders_inside_too(tmp_path):
    """Shards of FSDP lie so."""
    shard = tmp_path / "optimizer_0" / "__1_0.distcp"
    manifest.begin(tmp_path)
    assert manifest.damage(tmp_path) == "it was not written to its end"
    shard.parent.mkdir()
    shard.write_bytes(b"abc")
    manifest.finish(tmp_path)
    assert manifest.damage(tmp_path) is None
    shard.write_bytes(b"abd")
    assert manifest.damage(tmp_path) == "optimizer_0/__1_0.distcp has changed"
    (tmp_path / "manifest.json").write_text(json.dumps(sealed({"files": {"gone": [1, 2]}})))
    assert manifest.damage(tmp_path) == "gone is missing"


def test_the_oldest_checkpoint_goes_when_the_newest_is_whole(tmp_path):
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    checkpoints.rotate(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]
