"""Where no more can be written a command says so in one line, leaves nothing half, and goes on later."""

from __future__ import annotations

import json
import resource
from functools import partial
from pathlib import Path

import pytest
import small
from PIL import Image

from foveate.train import checkpoints, run

RECIPE = {**small.LEARNED, "steps": 4}
LORA = {**RECIPE, **small.ADAPTERS}


def limited(line: list[str], most: int, log: Path) -> tuple[int, list[str]]:
    """Run a command in a process that can write no file larger than so many bytes; its code, what it said."""

    unbound = resource.RLIM_INFINITY
    first = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, unbound))
    process = small.begun(line, log, first)
    process.join()
    said = [text for text in log.read_text().splitlines() if text.startswith("foveate:")]
    assert "Traceback" not in log.read_text()
    return process.exitcode, said


def refused(code: int, said: list[str], path: Path) -> None:
    assert code == 1 and len(said) == 1
    words = ("File too large", "No space left on device")  # torch does not say which
    assert any(said[0] == f"foveate: {w}: {path}; what was finished is kept" for w in words), said


def size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        pytest.param("model.safetensors", marks=pytest.mark.full),
        pytest.param("adapter_model.safetensors", marks=pytest.mark.full),
    ],
)
def test_a_checkpoint(card, unbroken, tmp_path, name):
    """Neither half a checkpoint stays nor the room it takes."""
    changes = LORA if "adapter" in name else RECIPE
    done, document = unbroken(**changes)
    most = size(done / "checkpoint-2" / name) - 1
    out = tmp_path / "out"
    line = ["train", *small.words(card(**changes)), "--out", str(out), "--resume"]
    refused(*limited(line, most, tmp_path / "log"), out / "checkpoint-2")
    assert [p.name for p in out.iterdir()] == ["recipe.json"]
    small.same(out, run(card(**changes, name="patchqa"), out, resume=True), done, document)


@pytest.mark.full
def test_the_model_at_the_end(card, unbroken, tmp_path):
    """Adapters' checkpoints have room where the whole model has none."""
    done, document = unbroken(**LORA)
    most = max(size(p) for p in (done / "checkpoint-4").iterdir())
    assert most < size(done / "model.safetensors")
    out = tmp_path / "out"
    line = ["train", *small.words(card(**LORA)), "--out", str(out), "--resume"]
    refused(*limited(line, most, tmp_path / "log"), out / "model.tmp")
    assert not list(out.glob("*.safetensors")) and not (out / "training.json").exists()
    assert checkpoints.last_whole(out) == out / "checkpoint-4"
    small.same(out, run(card(**LORA, name="patchqa"), out, resume=True), done, document)


def test_answers(model, tmp_path):
    """What was answered before stays, and a batch that has no room is named."""
    words = ("--method", "stride", "--keep", "0.5", "--limit", "9", "--batch-size", "3")
    line = ["eval", "--model", str(model), "--device", "cpu", "--max-new-tokens", "2", *words]
    out = tmp_path / "out"
    whole = limited([*line, "--out", str(tmp_path / "whole")], 1 << 30, tmp_path / "log")
    assert whole == (0, [])
    (result,) = (tmp_path / "whole" / "runs").iterdir()
    parts = out / "runs" / result.name.replace(".json", ".parts")
    refused(*limited([*line, "--out", str(out)], 500, tmp_path / "log2"), parts / "000000000.json")
    assert not list(parts.glob("*.json"))
    refused(
        *limited([*line, "--out", str(out)], 3000, tmp_path / "log4"), out / "runs" / result.name
    )
    assert [p.name for p in sorted(parts.glob("*.json"))] == [f"{n:09d}.json" for n in (0, 3, 6)]
    assert limited([*line, "--out", str(out)], 1 << 30, tmp_path / "log3") == (0, [])
    assert not parts.exists()
    found, want = (
        json.loads((out / "runs" / result.name).read_text()),
        json.loads(result.read_text()),
    )
    assert found["answers"] == want["answers"] and found["cost"] == want["cost"]


def test_pictures(model, tmp_path):
    """The picture that was there before stays."""
    shown, picture = tmp_path / "shown.png", tmp_path / "kept.png"
    Image.new("RGB", (40, 30), "red").save(shown)
    words = ("--method", "stride", "--keep", "0.5", "--device", "cpu", "--max-new-tokens", "2")
    line = ["ask", str(shown), "what ?", "--model", str(model), *words, "--picture", str(picture)]
    picture.write_bytes(b"before")
    refused(*limited(line, 500, tmp_path / "log"), picture)
    assert picture.read_bytes() == b"before" and not list(tmp_path.glob("*.tmp"))
    assert limited(line, 1 << 30, tmp_path / "log2") == (0, [])
    with Image.open(picture) as drawn:
        assert drawn.width > 40
