"""README.md and the pages of docs/: their Python runs, their commands parse, their tables are current.

A Python block that ends in a comment behind print(…) prints it. One titled "Needs …" cannot run here: it is
compiled, and its names of foveate exist. One titled as a file is written into that file too.
"""

import ast
import io
import json
import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from foveate import embedded
from foveate.cli import app, run
from foveate.cli.recipes import chosen

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
SITE = [README, DOCS / "index.md", *sorted((DOCS / "site").glob("*.md"))]
HUB_ID = "llava-hf/llava-1.5-7b-hf"
FENCE = re.compile(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTS = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Title and text of each block of a page that is written in this language."""
    return [
        (title, text) for kind, title, text in FENCE.findall(page.read_text()) if kind == language
    ]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def make(monkeypatch):
    """docs/make.py, importable."""
    monkeypatch.syspath_prepend(str(DOCS))
    yield __import__("make")
    for name in ("make", "grid", "outcomes", "pictures", "tables"):
        sys.modules.pop(name, None)


# A Trainer of one's own pins memory unless told otherwise.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
@pytest.mark.parametrize("page", [p for p in SITE if blocks(p, "python")], ids=named)
def test_its_python_runs_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("examples").symlink_to(ROOT / "examples")
    shutil.copy(ROOT / "examples" / "shop.png", "shop.png")
    for title, text in blocks(page, "json"):
        Path(title).write_text(text)
    known = {"__name__": page.stem}
    for title, text in blocks(page, "python"):
        code = compile(text.replace(HUB_ID, str(embedded.PATH)), named(page), "exec")
        if title.startswith("Needs "):
            assert unknown(text) == []
            continue
        if title:
            Path(title).write_text(text)
        capsys.readouterr()
        exec(code, known)
        assert [*PRINTS.findall(text)] in ([], capsys.readouterr().out.splitlines())
    for drawn in Path().glob("*.png"):
        with Image.open(drawn) as picture:
            assert picture.width > 300
    sys.modules.pop("mymethods", None)


def unknown(code: str) -> list[str]:
    """What a block takes from foveate and what is not there."""
    found = list(ast.walk(ast.parse(code)))
    imported = [
        n for n in found if isinstance(n, ast.ImportFrom) and n.module.startswith("foveate")
    ]
    names = [(n.module, alias.name) for n in imported for alias in n.names]
    names += [
        ("foveate", n.attr)
        for n in found
        if isinstance(n, ast.Attribute) and getattr(n.value, "id", None) == "foveate"
    ]
    return [
        f"{module}.{name}" for module, name in names if not hasattr(import_module(module), name)
    ]


def test_a_name_that_is_not_there_is_noticed():
    assert unknown("import foveate\nfrom foveate.ops import top\nfoveate.compress(1)") == []
    assert unknown("from foveate.ops import tip\nfoveate.compres(1)") == [
        "foveate.ops.tip",
        "foveate.compres",
    ]


def test_the_first_block_of_the_door_needs_no_download():
    (_, first), *_ = blocks(README, "python")
    assert HUB_ID not in first and "D 2 X" in PRINTS.findall(first)


# Where texts show what a command prints: as ```console, the command behind a $.
TEXTS = [*SITE, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
TEXTS += [*sorted((DOCS / "site").rglob("*.md")), *sorted((ROOT / "recipes").rglob("*.md"))]
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
        *(path.read_text() for path in dict.fromkeys(TEXTS)),
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
        languages = set(re.findall(r"^```(\w*)(?: .*)?\n(?:.*\n)*?```$", text, re.MULTILINE))
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
    [(_, records)] = blocks(DOCS / "site" / "train.md", "json")
    for record in json.loads(records):
        asked, answer = (turn["value"] for turn in record["conversations"])
        question = shlex.quote(asked.replace("<image>", "").strip())
        command = f"foveate ask examples/{record['image']} {question}"
        assert printed(command, capsys, monkeypatch).splitlines()[0] == answer


def commands() -> list[str]:
    """Every command of foveate that a page shows, once."""
    lines = [
        line
        for page in SITE
        for _, text in blocks(page, "bash")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    return sorted({line for line in lines if re.search(r"\bfoveate [a-z]", line)})


@pytest.mark.parametrize("line", commands())
def test_its_commands_parse(line):
    """As far as it goes without a model: the options and their values, and recipes with their fields."""
    words = shlex.split(line, comments=True)
    name, *words = words[words.index("foveate") + 1 :]
    command = typer.main.get_command(app).commands[name]
    if name == "draw":
        command, words = command.commands[words[0]], words[1:]
    given = command.make_context(name, words).params
    if name == "train" and given["recipe"]:
        card = chosen(given["recipe"], given["set_"] or [])
        assert card.name == given["recipe"] or "name=" in line


def test_every_command_is_shown_somewhere():
    said = {word for line in commands() for word in re.findall(r"\bfoveate ([a-z]+)", line)}
    assert said | {"convert"} == {*typer.main.get_command(app).commands}


def test_its_make_targets_exist():
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {t for page in SITE for t in re.findall(r"make ([a-z-]+)", "\n".join(code(page)))}
    assert {"demo", "test"} <= targets <= rules


def code(page: Path) -> list[str]:
    """What stands in code on a page, in blocks and in sentences."""
    text = page.read_text()
    return [b for _, b in blocks(page, "bash")] + re.findall(r"`([^`\n]+)`", text)


def test_its_tables_are_what_docstrings_and_results_say(make):
    for page in make.PAGES:
        assert make.filled(page, page.read_text()) == page.read_text(), f"{page}: make docs"


def test_its_pictures_are_what_results_and_methods_say(make):
    new, old = (
        np.asarray(Image.open(file).convert("RGB"), dtype=float)
        for file in (io.BytesIO(make.pictures.kept()), DOCS / "kept.png")
    )
    assert new.shape == old.shape and np.abs(new - old).mean() < 0.5, "make docs"


def test_a_stale_table_is_noticed(make):
    text = README.read_text()
    assert make.filled(README, text.replace("| `fastv` |", "| `slowv` |")) == text
    with pytest.raises(ValueError, match="no end"):
        make.filled(README, text.replace("<!-- /methods -->", ""))


@pytest.mark.parametrize("page", SITE, ids=named)
def test_its_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_it_stays_a_door():
    assert len(README.read_bytes()) <= 12_000


def test_results_become_tables(make):
    wall = {"median": 1.01, "low": 0.99, "high": 1.03}
    found = {name: {"wall": wall, "pairs": 30, "bar": 1.02} for name in make.outcomes.LIMITS}
    text = make.outcomes.limits(found)
    assert "| 30 | 1.010 (0.990–1.030) | lower bound ≤ 1.02 |" in text


def measured(method: str, keep: float, visual: int, batch: int = 1) -> dict:
    """A cell of a grid."""
    about = {"method": method, "keep": keep, "visual": visual, "batch": batch, "idle": False}
    times = {"prefill_s": {"median": visual * batch * keep / 100}, "load": 0.25}
    if method == "identity":
        return about | times
    ratio = {"median": keep, "low": keep - 0.1, "high": keep + 0.1}
    limit = {"median": 1.03, "low": 1.0, "high": 1.1}
    return {
        **about,
        **times,
        **{"to_bare": {"wall": ratio}, "to_limit": {"wall": limit}, "realised": ratio},
        **{"decode_to_bare": ratio, "decode_to_limit": limit},
        **{
            "end_to_end_to_bare": {"1": limit, "16": ratio},
            "end_to_end_to_limit": {"1": ratio, "16": limit},
        },
        **{"peak_to_bare": 0.5, "peak_to_limit": 1.0},
    }


def test_a_grid_is_shown_while_it_is_measured(make, tmp_path, monkeypatch):
    """Of nothing a page is made, and of a part; cells without a clock and left out ones are in no picture."""
    monkeypatch.setattr(make.grid, "RESULTS", tmp_path)
    assert "make grid" in make.grid.page() and make.grid.pictures() == {}
    run = {"device": "cpu", "threads": 2, "versions": {"torch": "2"}, "commit": "0123456789"}
    cells = [measured("identity", 1.0, n, batch) for n in (576, 1444) for batch in (1, 4)]
    cells += [measured("stride", keep, 576) for keep in (0.5, 0.25)] + [
        measured("fastv", 0.25, 1444)
    ]
    gone = {"method": "fastv", "keep": 0.25, "batch": 32, "asked": 2880, "why": "too long"}
    document = {"model": "small", "run": run, "cells": cells, "left_out": [gone]}
    (tmp_path / "grid-small.json").write_text(json.dumps(document))
    page = make.grid.page()
    assert (
        "| 576 | 1 | `stride` | 0.25 / 1.03 | 0.25 / 1.03 | 0.25 / 1.03 | 0.50 / 1.00 | 25 % |"
        in page
    )
    assert "| 2880 | 32 | `fastv` 0.25 | too long |" in page and "Load before it began: 0.2" in page
    drawn = {name: picture.decode() for name, picture in make.grid.pictures().items()}
    assert {name: "stride" in picture and "1444" in picture for name, picture in drawn.items()} == {
        "realised.svg": True,
        "growing.svg": True,
    }
    assert drawn == {name: one.decode() for name, one in make.grid.pictures().items()}


def test_training_is_shown_once_it_is_measured(make, tmp_path, monkeypatch):
    monkeypatch.setattr(make.outcomes, "RESULTS", tmp_path)
    assert "Not measured" in make.outcomes.training()
    span = {"median": 0.021, "low": 0.02, "high": 0.03}
    document = {"recipe": "patchqa", "shares": {"outside": span}}
    (tmp_path / "training.json").write_text(json.dumps(document))
    assert "`patchqa`, 2.1 % (2.0–3.0) is neither" in make.outcomes.training()
    way = {name: {"wall": {"median": 0.5}} for name in ("to_bare", "to_limit")}
    way |= {"peak_to_bare": 0.4, "peak_to_limit": 1.1}
    cell = measured("stride", 0.25, 576) | {"training": {"plain": way, "checkpointing": way}}
    about = {"prompt": {"visual": 576, "text": 64}, "cells": [cell, measured("identity", 1.0, 576)]}
    run = {"device": "cpu", "threads": 2, "versions": {"torch": "2"}, "commit": None}
    (tmp_path / "steps-small.json").write_text(json.dumps(about | {"run": run}))
    row = "| `stride` | 0.25 | 0.50 / 0.50 | 0.50 / 0.50 | 0.40 / 1.10 | 0.40 / 1.10 |"
    assert make.outcomes.training().endswith(row)
