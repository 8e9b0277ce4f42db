"""README.md runs: its Python blocks, on the embedded model; its commands exist; its tables are current."""

import ast
import json
import re
import shlex
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


# Where texts show what a command prints: as ```console, the command behind a $.
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS += sorted((ROOT / "recipes").rglob("*.md"))
PYTHON = [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
VARIES = ((r"\b\d+\.\d+ s\b", "… s"),)  # what no machine gives twice: the clock


def shown(text: str) -> list[tuple[str, str]]:
    """Each command that a text shows with its output, and that output."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def masked(text: str) -> str:
    for varies, by in VARIES:
        text = re.sub(varies, by, text)
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def printed(command: str, capsys, monkeypatch) -> str:
    """What a command prints that is typed in a checkout."""
    word, *words = shlex.split(command)
    assert word == "foveate", f"{command}: of other programs nobody here knows what they print"
    monkeypatch.chdir(ROOT)
    capsys.readouterr()
    assert run(words) == 0
    return capsys.readouterr().out


def written() -> list[str]:
    """All texts that may show a command: pages, and the docstrings of every module."""
    return [
        *(path.read_text() for path in TEXTS),
        *(ast.get_docstring(ast.parse(path.read_text())) or "" for path in PYTHON),
    ]


def test_what_commands_are_shown_to_print_is_what_they_print(capsys, monkeypatch):
    sessions = [one for text in written() for one in shown(text)]
    assert sessions
    for command, output in sessions:
        assert masked(printed(command, capsys, monkeypatch)) == masked(output), command


def test_an_output_stands_nowhere_else():
    """So that none escapes the test above: every other block of a page is something to type or to write."""
    for text in written():
        languages = set(re.findall(r"^```(.*)\n(?:.*\n)*?```$", text, re.MULTILINE))
        assert languages <= {"bash", "python", "json", "console", "bibtex"}, languages
        assert not re.search(
            r"^ *(>>>|\$ foveate)", re.sub(r"```console\n.*?```", "", text, flags=re.DOTALL), re.M
        )


def test_another_output_is_noticed():
    right = "$ foveate x\nD 2 X\ntook 0.31 s \n"
    for wrong, same in ((right.replace("0.31", "12.9"), True), (right.replace("2", "3"), False)):
        [(_, a)], [(_, b)] = (shown(f"```console\n{text}```") for text in (right, wrong))
        assert (masked(a) == masked(b)) is same


def test_the_records_that_it_shows_are_true(capsys, monkeypatch):
    """What a record says the picture's answer is, the embedded model says too."""
    for record in json.loads(*blocks("json")):
        asked, answer = (turn["value"] for turn in record["conversations"])
        question = shlex.quote(asked.replace("<image>", "").strip())
        command = f"foveate ask examples/{record['image']} {question}"
        assert printed(command, capsys, monkeypatch).splitlines()[0] == answer


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
