"""Methods of one's own, by name: package.module:Class and entry points, in Python and on the command line."""

from __future__ import annotations

import json
import sys
from functools import partial

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import foveate
from foveate import evaluate
from foveate.cli import run
from foveate.embedded import PATH
from foveate.patchqa import PatchQA
from foveate.registry.methods import factory

SOURCE = '''
import torch
from torch import nn
from foveate import Compressor, Site, Tower

class Ends(Compressor):
    """Keep the first and the last tokens: no paper."""
    site = Site(Tower.language, 0)

    def __init__(self, keep: int = 4, gain: float = 1.0):
        super().__init__()
        self.keep, self.gain = keep, gain
        self.scale = nn.Parameter(torch.full((1,), float(gain)))

    def arguments(self):
        return {"keep": self.keep, "gain": self.gain}

    def forward(self, tokens, context):
        rank = tokens.valid.cumsum(1)
        ends = (rank <= self.keep // 2) | (rank > rank.amax(1, keepdim=True) - (self.keep + 1) // 2)
        kept = tokens.where(ends & tokens.valid)
        return kept.carry(kept.x * self.scale)

MADE = Ends()
NOTHING = 3
'''
ENTRY = "[foveate.methods]\nends = ends_of_mine:Ends\nfastv = ends_of_mine:Ends\n"
NAME = "ends_of_mine:Ends"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a method of one's own, which one is in."""
    (tmp_path / "ends_of_mine.py").write_text(SOURCE)
    (tmp_path / "good.png").write_bytes(b"")
    PatchQA("test").examples(1)[0].images[0].save(tmp_path / "good.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    yield tmp_path
    sys.modules.pop("ends_of_mine", None)


@pytest.fixture
def model():
    return AutoModelForImageTextToText.from_pretrained(PATH).eval()


@pytest.fixture
def installed(folder, monkeypatch):
    """A package that brings the method by an entry point, and one by a name that is foveate's."""
    info = folder / "ends_of_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: ends-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def printed(capsys, *words):
    """The document that a command prints."""
    assert run([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def asked(capsys, *words):
    return printed(capsys, "ask", "good.png", "what does the sign say ?", *words)


def test_a_class_by_its_place_works_everywhere(folder, capsys, model, monkeypatch):
    assert foveate.support(model, NAME, keep=6).works
    foveate.compress(model, NAME, keep=6)
    assert repr(model.model.visual_compressor).startswith("Ends(keep=6")
    answer = asked(capsys, "--method", NAME, "--keep", 6, "--set", "gain=0.5")
    assert (answer["tokens"]["after"], answer["method"]) == (6, "Ends(keep=6, gain=0.5)")
    few = ("--limit", 2, "--batch-size", 2)
    (own, other) = printed(
        capsys, "compare", "--methods", f"{NAME},stride", "--keeps", 8, "--out", "out", *few
    )["runs"][1:3]
    assert (own["method"], own["tokens"], other["tokens"]) == (NAME, 8.0, 8.0)
    assert printed(capsys, "eval", "--method", NAME, "--keep", 3, *few)["tokens"] == 3.0
    bench = ("bench", "--count-only", "--methods", f"{NAME}(gain=2.0)", "--keeps", 5)
    assert printed(capsys, *bench)["cells"][-1]["method"] == f"{NAME}(gain=2.0)"
    card = [f"method={NAME}", "arguments.keep=9", "steps=1", "batch=2", "micro_batch=2"]
    train = ["train", "patchqa", *(word for pair in card for word in ("--set", pair)), "--out"]
    assert printed(capsys, *train, "t")["steps"] == 1
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as a console script has it
    sys.modules.pop("ends_of_mine")
    assert printed(capsys, *train, "u")["steps"] == 1
    assert "Ends(keep=9" in repr(foveate.from_pretrained("t", trust=[NAME]).model.visual_compressor)


def test_a_saved_model_runs_no_code_unless_it_is_named(folder, capsys, model, tmp_path):
    """And with its class named it answers with its own weights, and other arguments where they are given."""
    compress = foveate.compress(model, NAME, keep=6)
    torch.nn.init.constant_(compress.model.visual_compressor.scale, 0.25)
    model.save_pretrained("saved")
    AutoProcessor.from_pretrained(PATH).save_pretrained("saved")
    sys.modules.pop("ends_of_mine")
    with pytest.raises(
        ValueError, match=r"no code that a checkpoint names is run.*ends_of_mine:Ends"
    ):
        foveate.from_pretrained("saved")
    assert "ends_of_mine" not in sys.modules
    assert run(["ask", "good.png", "what ?", "--model", "saved"]) == 1
    assert f"--method '{NAME}'" in capsys.readouterr().err
    for words, keep in ([], 6), (["--keep", 4], 4):
        assert (
            asked(capsys, "--model", "saved", "--method", NAME, *words)["tokens"]["after"] == keep
        )
    back = foveate.from_pretrained("saved", trust=[NAME])
    assert back.model.visual_compressor.scale.item() == 0.25


def test_packages_bring_methods(installed, capsys, model):
    """One that is broken is named where methods are listed, and stops no model from being loaded."""
    methods = {one["slug"]: one for one in printed(capsys, "methods")}
    assert methods["ends"]["class"] == "Ends" and methods["fastv"]["class"] == "FastV"
    assert foveate.support(model)["ends"].works
    foveate.compress(model, "ends", keep=5).save_pretrained("saved")
    assert foveate.from_pretrained("saved").model.visual_compressor.keep == 5
    assert asked(capsys, "--method", "ends", "--keep", 5)["tokens"]["after"] == 5
    entries = installed / "ends_of_mine-1.0.dist-info" / "entry_points.txt"
    entries.write_text(ENTRY + "gone = no_such_module:Gone\n")
    with pytest.warns(UserWarning, match="no_such_module cannot be imported"):
        foveate.from_pretrained("saved")
    assert run(["methods"]) == 2 and "no_such_module" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("endz", "nearest: ends; `foveate methods`"),
        ("no_such_module:Ends", "no_such_module cannot be imported"),
        ("ends_of_mine:End", "its compressors are Ends"),
        ("ends_of_mine:", "has no empty name"),
        ("ends_of_mine:MADE", "it is a Ends; want a compressor's class"),
        ("ends_of_mine:NOTHING", "it is a int"),
        (":", "an empty name cannot be imported"),
    ],
)
def test_what_is_no_method_is_said(installed, capsys, name, says):
    with pytest.raises(ValueError, match="no method") as error:
        factory(name)
    assert says in str(error.value)
    assert run(["ask", "good.png", "what ?", "--method", name]) == 2
    assert says in capsys.readouterr().err


def test_evaluate_in_python_is_evaluate_on_the_command_line(capsys, model, tmp_path):
    processor = AutoProcessor.from_pretrained(PATH)
    found = evaluate.evaluate(model, processor, "fastv", keep=0.25, limit=6)
    shown = printed(capsys, "eval", "--method", "fastv", "--keep", 0.25, "--limit", 6)
    for name in ("accuracy", "tokens", "answers", "steps", "share", "method", "keep"):
        assert found[name] == shown[name], name
    assert not foveate.is_compressed(model)
    same = evaluate.evaluate(model, processor, foveate.FastV(0.25), limit=6, out=tmp_path)
    assert same["accuracy"] == found["accuracy"] and len([*(tmp_path / "runs").iterdir()]) == 1
    foveate.compress(model, foveate.Stride(9), positions="renumbered")
    as_it_is = evaluate.evaluate(model, processor, limit=2)
    assert (as_it_is["tokens"], as_it_is["job"]["positions"]) == (9.0, "renumbered")
    assert evaluate.evaluate(model, processor, keep=4, limit=2)["tokens"] == 4.0
    assert model.model.visual_compressor.keep == 9


def test_compare_in_python(model):
    processor, own = AutoProcessor.from_pretrained(PATH), PatchQA("test", seed=3).examples(4)
    methods = ["stride", foveate.FastV, partial(foveate.METHODS["pool"], layer=2)]
    document = evaluate.compare(model, processor, methods, keeps=[0.3, 0.5], task=own)
    rows = [(run["method"], run["keep"]) for run in document["runs"]]
    assert rows == [
        ("identity", 1.0),
        ("stride", 0.3),
        ("stride", 0.5),
        ("fastv", 0.3),
        ("fastv", 0.5),
        ("pool(layer=2)", 0.5),
    ]
    assert [skip["method"] for skip in document["skipped"]] == ["pool(layer=2)"]
    assert (document["task"], document["n"]) == ("own", 4)
    with pytest.raises(ValueError, match="unknown task 'patchq': nearest: patchqa"):
        evaluate.evaluate(model, processor, task="patchq")
    with pytest.raises(TypeError, match="no setting 'sed': there are seed"):
        evaluate.evaluate(model, processor, sed=3)
    with pytest.raises(ValueError, match="limit='11'"):
        evaluate.compare(model, processor, "stride, fastv", limit="11")
    with pytest.raises(
        TypeError, match="a dict without images, question, answer, kind, group, key"
    ):
        evaluate.evaluate(model, processor, task=[{"question": "why ?"}])
    with pytest.raises(TypeError, match="keep=3 beside a method that is made"):
        evaluate.evaluate(model, processor, foveate.FastV(2), keep=3)
    with pytest.raises(ValueError, match="keep=3 without a method"):
        evaluate.evaluate(model, processor, keep=3)
