"""README.md runs: its Python blocks, on the embedded model; its commands exist; its tables are current."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import foveate
from foveate import embedded
from foveate.cli import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
HUB_ID = "llava-hf/llava-1.5-7b-hf"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def make(monkeypatch):
    """docs/make.py, importable."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield __import__("make")
    sys.modules.pop("make")


# A Trainer of one's own pins memory unless told otherwise.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
def test_every_python_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with Image.open(ROOT / "examples" / "shop.png") as file:
        known = {"image": file.convert("RGB")}
    Path("mine.json").write_text(*blocks("json"))
    shutil.copy(ROOT / "examples" / "shop.png", "shop.png")
    assert len(blocks("python")) == 9
    for block in blocks("python"):
        exec(compile(block.replace(HUB_ID, str(embedded.PATH)), "README.md", "exec"), known)
    assert capsys.readouterr().out
    with Image.open("kept.png") as drawn:
        assert drawn.width > 300
    assert isinstance(known["model"].model.visual_compressor, known["Loudest"])
    known["model"].generate(**known["inputs"], max_new_tokens=1)
    patches = known["model"].config.image_seq_length
    assert foveate.last_counts(known["model"]) == [patches // 4]


def test_its_commands_are_commands(capsys):
    words = {word for b in blocks("bash") for word in re.findall(r"\bfoveate ([a-z]+)", b)}
    assert words == {"methods", "ask", "compare", "eval", "draw", "bench", "train", "convert"}
    for word in words:
        assert run([word, "--help"]) == 0
    targets = set(re.findall(r"make ([a-z-]+)", README))
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets <= rules


def test_its_tables_are_what_docstrings_and_results_say(make):
    assert make.filled(README) == README, "README.md is stale: make docs"


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_a_stale_table_is_noticed(make):
    assert make.filled(README.replace("| `fastv` |", "| `slowv` |")) == README
    with pytest.raises(ValueError, match="results"):
        make.filled(README.replace("<!-- /results -->", ""))


def test_results_become_tables(make):
    shares = {"overall": 0.5, "fine": 0.25}
    run_ = {
        "method": "fastv",
        "keep": 0.25,
        "tokens": 36.0,
        "accuracy": shares,
        "interval": dict.fromkeys(shares, (0.2, 0.8)),
        "prefill": {"ratio": 0.5},
        "cost": {"total": 12e6},
    }
    versions = {"torch": "2", "transformers": "5"}
    where = {"commit": "0123456789abcdef", "device": "cpu", "versions": versions}
    document = {"model": "m", "task": "t", "n": 7, "groups": list(shares), "circumstances": where}
    other = {**run_, "model": "stf", "method": "llava_stf", "keep": None}
    text = make.compared(Path("a.json"), {**document, "runs": [{**run_, "model": "m"}, other]})
    assert "| `stf`, trained | – | 36 |" in text
    text = make.compared(Path("a.json"), {**document, "runs": [run_]})
    assert "| `fastv` | 0.25 | 36 | **50.0** (20.0–80.0) | 25.0 | 0.50 | 12 |" in text
    wall = {"median": 1.01, "low": 0.99, "high": 1.03}
    run_ = {"device": "cpu", "threads": 2, "commit": None, "versions": {"torch": "2"}}
    found = {"model": "m", "prompt": {"visual": 1, "text": 1}, "run": run_}
    limits = {name: {"wall": wall, "pairs": 30, "bar": 1.02} for name in make.LIMITS}
    text = make.benched(Path("b.json"), {**found, "limits": limits})
    assert "| 1.010 (0.990–1.030) | lower bound ≤ 1.02 |" in text
