"""`foveate train`: recipes by name, their fields from the command line, and what a person reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import small

from foveate.cli import run
from foveate.cli.recipes import chosen
from foveate.tasks import TASKS, Questions
from foveate.train import RECIPES, Lora, Record
from foveate.train.model import load

MODULE = sys.modules["foveate.cli.train"]  # its name in the package is the command
EXTRA = ("accelerate", "peft", "datasets", "trl")


def refused(capsys, *words: object) -> str:
    """The one line that a wrong command gets."""
    assert run(["train", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("foveate: ") and err.count("\n") == 1
    return err


def test_list(capsys):
    assert run(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [name for name in RECIPES if any(line.split()[:1] == [name] for line in lines)] == [
        *RECIPES
    ]
    assert run(["train", "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == [*RECIPES]
    assert found[[*RECIPES].index("llavolta_light_patchqa")] == {
        "name": "llavolta_light_patchqa",
        "about": "LLaVolta's light compression throughout, in small.",
        "method": "llavolta",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_show(capsys, name):
    assert run(["train", name, "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(RECIPES[name]().as_dict()))
    assert run(["train", name, "--show"]) == 0
    assert f"name              {name}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pairs", "field", "value"),
    [
        (["batch=64"], "batch", 64),
        (["steps=none", "epochs=2"], "epochs", 2.0),
        (["steps=none"], "steps", None),
        (["clip=1"], "clip", 1.0),
        (["warmup=1e-2"], "warmup", 0.01),
        (["max_length=none"], "max_length", None),
        (["bf16=True"], "bf16", True),
        (["check=false"], "check", False),
        (["scheduler=linear"], "scheduler", "linear"),
        (["data=some file.json"], "data", "some file.json"),
        (["images=7"], "images", "7"),
        (["validation=v.jsonl"], "validation", "v.jsonl"),
        (["deepspeed=zero3.json"], "deepspeed", "zero3.json"),
        (["vision=tower"], "vision", "tower"),
        (["trains.projector=1e-3"], "trains", {**RECIPES["patchqa"]().trains, "projector": 1e-3}),
        (["trains.projector=none", "trains.language=none"], "trains", {"compressor": 1e-3}),
        (
            ["trains.*.layers.0.*=5e-5"],
            "trains",
            {**RECIPES["patchqa"]().trains, "*.layers.0.*": 5e-5},
        ),
        (["arguments.keep=0.25", "arguments.layer=2"], "arguments", {"keep": 0.25, "layer": 2}),
        (["arguments.keep=64", "arguments.keep=none"], "arguments", {}),
        (["arguments.schedule=heavy"], "arguments", {"schedule": "heavy"}),
        (["shrink=1", "lora.rank=4", "trains.lora=2e-4"], "lora", Lora(rank=4)),
        (
            ["shrink=1.0", "lora.rank=4", "lora.dropout=0", "trains.lora=2e-4"],
            "lora",
            Lora(rank=4, dropout=0.0),
        ),
    ],
)
def test_fields_from_the_command_line(pairs, field, value):
    found = getattr(chosen("patchqa", pairs), field)
    assert found == value
    assert type(found) is type(value)


def test_adapters_are_taken_away():
    recipe = chosen("llava_1_5_7b_lora", ["lora=none", "trains.lora=none", "trains.language=2e-5"])
    assert recipe.lora is None and set(recipe.trains) == {"projector", "compressor", "language"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "train which recipe?"),
        (["pathqa"], "nearest: patchqa; there are llava_1_5_7b_pretrain"),
        (["patchqa", "--set", "btch=3"], "nearest: batch;"),
        (["patchqa", "--set", "batch"], "want field=value"),
        (["patchqa", "--set", "batch=many"], "want a whole number, such as 48"),
        (["patchqa", "--set", "batch=1.5"], "want a whole number, such as 48"),
        (["patchqa", "--set", "batch=none"], "want a value; it is 48"),
        (["patchqa", "--set", "trains=none"], "want a value"),
        (["patchqa", "--set", "bf16=yes"], "want true or false"),
        (["patchqa", "--set", "clip=big"], "want a number, such as 1.0"),
        (["patchqa", "--set", "trains=3"], "want trains.name=value"),
        (["patchqa", "--set", "batch.size=3"], "nothing to set inside of it"),
        (["patchqa", "--set", "lora=4"], "want lora.name=value"),
        (["patchqa", "--set", "lora.rnk=4"], "nearest: rank; there are rank, alpha, dropout"),
        (["patchqa", "--set", "lora.rank=4"], "without a learning rate"),
        (["patchqa", "--set", "steps=none"], "say how many steps"),
        (["patchqa", "--set", "batch=7"], "no multiple of micro_batch=48"),
        (["patchqa", "--set", "data=patchqaa"], "nearest: patchqa;"),
        (["patchqa", "--set", "method=pol"], "nearest: pool; `foveate methods`"),
        (["patchqa", "--set", "method=pool", "--set", "arguments.strid=4"], "nearest: stride;"),
        (["patchqa", "--set", "trains.projektor=1e-3"], "the parts are language, projector"),
        (["llava_1_5_7b"], "unknown data file or task 'data/llava_v1_5_mix665k.json'"),
        (["patchqa", "--set", "model=./out/first"], "want 'embedded', "),
    ],
)
def test_mistakes(capsys, tmp_path, words, says):
    assert says in refused(capsys, *words, "--out", tmp_path / "out")
    assert not list(tmp_path.glob("out/*.safetensors"))


def test_bad_data_reads_as_a_list(capsys, model, data, tmp_path):
    """One problem to a line, each with its own place; the last line sums up."""
    bad = tmp_path / "bad.json"
    text = data.read_text().replace('"1.png"', '"none.png"', 1).replace('"gpt"', '"robot"', 1)
    bad.write_text(text)
    recipe = small.card(model, bad, images=str(data.parent))
    assert run(["train", *small.words(recipe), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith('bad.json: record 1 ("0", line 2): ') and "robot" in lines[0]
    assert lines[1].startswith('bad.json: record 2 ("1", line ') and "none.png" in lines[1]
    assert lines[2] == f"foveate: 2 problems in {bad}"
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_task_is_trained_on(capsys, tmp_path):
    """PatchQA by name on the embedded model; what is left answers to `foveate.from_pretrained`."""
    words = ["llavolta_two_stage_patchqa", "--set", "steps=2", "--set", "batch=2"]
    words += ["--set", "micro_batch=2", "--out", str(tmp_path)]
    assert run(["train", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["steps"], document["out"]) == (2, str(tmp_path))
    assert document["recipe"]["arguments"] == {"schedule": "two_stage"}
    assert "holds a run: resume it" in refused(capsys, *words)
    assert "steps: 2 then, 3 now" in refused(capsys, *words, "--set", "steps=3", "--resume")
    assert run(["train", *words, "--resume"]) == 0
    assert f"model: {tmp_path}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_several_processes_print_one_document(capsys, monkeypatch, rank, lines):
    """What a process prints once it has trained, of several that trained together."""
    done = {"steps": 3, "seconds": 1.0, "history": []}
    monkeypatch.setattr(MODULE, "_trained", lambda *_: done)
    monkeypatch.setenv("RANK", rank)
    assert run(["train", "patchqa", "--json"]) == 0
    assert capsys.readouterr().out.count('"steps"') == lines


def test_no_loss_was_logged(capsys, tmp_path):
    MODULE._print({"steps": 3, "seconds": 1.0, "history": [{"step": 3}]}, tmp_path)
    assert capsys.readouterr().out.splitlines()[0] == "3 steps in 1 s"


def test_a_loss_that_is_no_number_is_told(capsys, model, data, tmp_path):
    recipe = small.card(model, data, trains={"language": 1e30}, warmup=0.0)
    assert run(["train", *small.words(recipe), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "step" in err and "the loss is nan; want smaller learning rates" in err
    assert err.count("\n") == 1 and not (tmp_path / "out" / "training.json").exists()


@pytest.mark.parametrize("name", TASKS)
def test_questions(name):
    some = Questions(name, 5, seed=3)
    assert len(some) == len(some.has_images) == 5
    records = list(some)
    assert records[2].turns == some[2].turns == Questions(name, 9, seed=3)[2].turns
    assert [r.turns for r in records] != [r.turns for r in Questions(name, 5, seed=4)]
    for record in records:
        assert isinstance(record, Record)
        asked, said = record.turns
        assert asked.text.count("<image>") == len(record.images) > 0
        assert said.role == "assistant" and said.text
    assert len({r.id for r in records}) == 5
    with pytest.raises(IndexError):
        some[5]


def test_another_method_leaves_the_arguments_of_the_first():
    """Wherever it is typed; and what is typed of its own stays."""
    card = chosen("llavolta_last_stage_patchqa", ["arguments.keep=36", "method=fastv"])
    assert (card.method, card.arguments) == ("fastv", {"keep": 36})
    same = chosen("llavolta_last_stage_patchqa", ["method=llavolta"])
    assert same.arguments == {"schedule": "last_stage", **same.arguments}


def test_a_name_is_a_folder_in_out(capsys):
    assert run(["train", "patchqa", "--set", "name=../elsewhere", "--set", "steps=1"]) == 2
    assert "want --out for another place" in capsys.readouterr().err


def test_no_other_task():
    with pytest.raises(ValueError, match="nearest: patchqa"):
        Questions("patchqaa", 3)


@pytest.mark.slow
def test_without_the_extra(tmp_path):
    """An environment of everything but the packages for training: imports work, training says what to do."""
    links = tmp_path / "packages"
    links.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(EXTRA):
            (links / entry.name).symlink_to(entry)
    source = Path(small.__file__).parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": f"{links}{os.pathsep}{source}"}
    bare = [sys.executable, "-S"]
    code = "import foveate.train; print(foveate.train.ProgressCallback.__name__)"
    done = subprocess.run([*bare, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "ProgressCallback", done.stderr
    line = [*bare, "-m", "foveate", "train", "patchqa", "--out", str(tmp_path / "out")]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install 'foveate[train]'" in done.stderr


def test_importing_foveate_is_light():
    """And soon done: until then a Ctrl-C finds nobody who would answer it in one line."""
    heavy = ("transformers", "torch", "numpy", "PIL", "typer", "rich")
    code = f"import sys, foveate.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_model_that_cannot_be_asked_is_named(model, data, tmp_path, capsys):
    """By the check of all other commands; without questions, its template is none of our business."""
    broken = shutil.copytree(model, tmp_path / "model")
    (broken / "chat_template.jinja").write_text("{% if %}")
    card = small.card(broken, data, steps=1)
    assert run(["train", *small.words(card), "--out", str(tmp_path / "out")]) == 1
    says = f"foveate: {broken}: its processor and chat template cannot ask a question: Expected"
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert load(replace(card, template="plain"))


@pytest.mark.parametrize("place", ["/nope", "./nope", "~/nope"])
def test_a_tower_that_is_not_there(data, tmp_path, capsys, place):
    card = small.card(place, data, vision=place, steps=1)
    assert run(["train", *small.words(card), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"foveate: {place}: no such folder"
