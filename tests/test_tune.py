"""A setting in a file, and how `foveate tune` finds one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import foveate
from foveate import embedded
from foveate.cli import run
from foveate.cli.ask import chosen_method
from foveate.cli.serve import offer
from foveate.cli.vllm import Told, command
from foveate.cli.wrong import Wrong
from foveate.engines import opening
from foveate.engines.vllm import served
from foveate.hosts.whole import fingerprint
from foveate.ladder import Ladder
from foveate.registry import setting
from foveate.registry.setting import Setting
from foveate.serve.limits import Refused

EXAMPLES = Path(__file__).parents[1] / "examples"
HERE = str(embedded.MODELS["embedded"])
METHOD = "fastv(layer=3, keep=9)"
SWITCHES = {"positions": "renumbered", "dropped": "merged"}


@pytest.fixture(scope="module")
def model():
    return embedded.load()[0]


@pytest.fixture
def file(model, tmp_path):
    """A setting for the embedded model."""
    chosen = Setting(METHOD, "embedded", fingerprint(model), SWITCHES)
    return str(chosen.write(tmp_path / "setting.json"))


def acts(model) -> tuple:
    """What is attached, and how."""
    said = model.config.visual_compression
    return str(model.model.visual_compressor), {name: said.get(name) for name in SWITCHES}


WANTED = ("FastV(keep=9, layer=3)", SWITCHES)


def by_ask(file, capsys):
    picture = str(EXAMPLES / "shop.png")
    assert run(["ask", picture, "what does the sign say ?", "--method", file, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tokens"]["after"] == 9
    return said["method"], {**SWITCHES, "dropped": said["dropped"]}


def by_eval(file, capsys):
    assert run(["eval", "--limit", "8", "--method", file, "--json"]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    assert job["method"] == "fastv(layer=3)" and job["keep"] == 9
    return job["compressor"], {name: job[name] for name in SWITCHES}


def by_compress(file, _):
    return acts(foveate.compress(embedded.load()[0], file))


def by_from_pretrained(file, _):
    return acts(foveate.from_pretrained(HERE, file))


def by_serve(file, _):
    return acts(offer(method=file).loaded.model)


def by_harness(file, _):
    return acts(opening.opened("embedded", torch.device("cpu"), {"method": file})[0])


DOORS = (by_ask, by_eval, by_compress, by_from_pretrained, by_serve, by_harness)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_the_file(file, capsys, door):
    assert door(file, capsys) == WANTED


def test_what_is_typed_beside_it(file, capsys):
    """A switch goes before the file's; a budget or an argument does not stand beside it."""
    model = foveate.compress(embedded.load()[0], file, attention="proportional")
    assert model.config.visual_compression["attention"] == "proportional"
    assert acts(model)[1] == SWITCHES
    says = "which says fastv(layer=3, keep=9): leave it out"
    with pytest.raises(ValueError, match=re.escape(f"keep=8 beside {file}, {says}")):
        foveate.compress(model, file, keep=8)
    with pytest.raises(ValueError, match=re.escape(says)):
        opening.arguments({"method": file, "set.layer": 2})
    with pytest.raises(Wrong, match=re.escape(f"--keep 8, --set layer=2 beside {file}, {says}")):
        chosen_method(file, "8", ["layer=2"])


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (None, "No such file or directory; `foveate tune` writes such a file"),
        ("{}", "no setting as `foveate tune` writes one"),
        ("changed", "no setting as `foveate tune` writes one"),
        ("ladder", "is a ladder, which asks a question at several budgets"),
        ("code", "a file may name methods, and no code"),
        ("switch", "want one of gone, merged"),
    ],
)
def test_files_that_are_none(file, tmp_path, held, says):
    path = tmp_path / "other.json"
    if held == "ladder":
        Ladder("stride", (9, 1.0), 0.1, 0.1, 0.1, 9, "own", "", "embedded", "").write(path, {})
    elif held == "code":
        Setting("math:sqrt", "embedded", "").write(path)
    elif held == "switch":
        Setting("stride(keep=9)", "embedded", "", {"dropped": "lost"}).write(path)
    elif held is not None:
        path.write_text(Path(file).read_text().replace("9", "8") if held == "changed" else held)
    with pytest.raises(ValueError, match=re.escape(says)):
        setting.named(str(path))


def test_a_client_names_no_file(file):
    choice = offer(method=file)
    assert acts(choice.loaded.model) == WANTED and choice.plan(None, None) is choice.usual
    assert str(choice.plan(None, 16).compressor) == "FastV(keep=16, layer=3)"
    with pytest.raises(Refused, match=r"no method '.*setting\.json'"):
        choice.plan(file, None)
    with pytest.raises(ValueError, match="no method"):
        served.of_text(file, choice.loaded.model.config)


def test_vllm_takes_what_it_can_serve(tmp_path, monkeypatch):
    def asked(switches):
        chosen = Setting("divprune(keep=9)", "embedded", "", switches)
        path = str(chosen.write(tmp_path / "setting.json"))
        return command(Told("embedded", path, None, [], None, "cpu", "127.0.0.1", 1, None), "")

    told = '{"foveate": "divprune(keep=9)", "foveate_positions": "renumbered"}'
    assert told in asked({"positions": "renumbered"})
    with pytest.raises(Wrong, match="vLLM serves dropped='gone'"):
        asked(SWITCHES)


def test_another_model_is_told(tmp_path, capsys):
    path = str(Setting("stride(keep=9)", "other", "0").write(tmp_path / "setting.json"))
    assert run(["eval", "--limit", "4", "--method", path, "--json"]) == 0
    assert "this setting was chosen for other" in capsys.readouterr().err
