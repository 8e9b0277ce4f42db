"""The site: every public name has its place, every page is in the menu, every claim has its number."""

import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml

import foveate
import foveate.evaluate
import foveate.ops
import foveate.train
from foveate import embedded
from foveate.cli import arguments
from foveate.leaderboard import figures
from foveate.leaderboard.page import advice

ROOT = Path(__file__).parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "results"
DOOR = " ".join((ROOT / "README.md").read_text().split())
API = "\n".join(path.read_text() for path in sorted((DOCS / "site" / "api").glob("*.md")))


def found(path: str) -> object:
    """What a dotted path names: the longest module of it, and the rest as attributes."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            value = getattr(value, name)
        return value
    raise AssertionError(path)


def listed() -> list[object]:
    """What the pages of the API show; of a whole module, its own functions and classes."""
    shown = []
    for value in map(found, re.findall(r"^::: ([\w.]+)$", API, re.MULTILINE)):
        inside = vars(value).items() if inspect.ismodule(value) else ()
        own = [one for name, one in inside if name[0] != "_" and defined(one, value)]
        shown += own if inspect.ismodule(value) else [value]
    return shown


def defined(value: object, module: ModuleType) -> bool:
    """Whether a function or class was written in this module."""
    code = inspect.isclass(value) or inspect.isfunction(value)
    return code and value.__module__ == module.__name__


@pytest.mark.parametrize(
    "module", [foveate, foveate.evaluate, foveate.train], ids=lambda m: m.__name__
)
def test_every_public_name_is_in_the_api(module):
    shown = listed()
    for name in module.__all__:
        value = getattr(module, name)
        constant = not (inspect.isclass(value) or inspect.isroutine(value))
        assert f"{name}`" in API if constant else any(value is one for one in shown), name


def test_no_module_is_shown_where_its_function_is_meant():
    """mkdocstrings reads files: of two things of one name it shows the module."""
    for path in re.findall(r"^::: ([\w.]+)$", API, re.MULTILINE):
        if path != "foveate.core.ops":
            file = ROOT / "src" / path.replace(".", "/")
            assert not file.with_suffix(".py").exists() and not file.exists(), path


def test_every_function_of_ops_is_in_the_api():
    shown = listed()
    own = [value for value in vars(foveate.ops).values() if defined(value, foveate.ops)]
    assert own and all(value in shown for value in own)


def test_every_public_name_says_what_it_is():
    for value in listed():
        members = vars(value).items() if inspect.isclass(value) else ()
        members = [m for name, m in members if name[0] != "_" and inspect.isfunction(m)]
        for one in (value, *members):
            assert inspect.getdoc(one), one


def test_every_page_is_in_the_menu():
    menu = json.dumps(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    assert pages and all(f'"{page}"' in menu for page in pages)


# What sentences say, and where it comes from: the words as they stand, and the numbers that make them true.
def test_what_the_door_says_is_so():
    door = (ROOT / "README.md").read_text()
    bench = json.loads((RESULTS / "bench-llava-1.5-7b.json").read_text())
    cells = {(cell["method"], cell["keep"]): cell for cell in bench["cells"]}
    bare, short = cells["identity", 1.0], cells["stride", 64]
    assert f"every picture as {bench['prompt']['visual']} tokens" in door
    assert "a quarter of the arithmetic" in door
    assert short["macs"]["total"] / bare["macs"]["total"] == pytest.approx(1 / 4, abs=0.02)
    assert "fifth of the cache" in door
    assert short["kv_bytes"] / bare["kv_bytes"] == pytest.approx(1 / 5, abs=0.01)
    model, _ = embedded.load()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert f"({millions:.1f} million parameters)" in door
    share = accuracies()
    for words, of in (
        ("DivPrune answers {} % of the questions", ("divprune", 0.25)),
        ("random choice {} %", ("random", 0.25)),
        ("the whole picture {} %", ("identity", 1.0)),
    ):
        assert words.format(round(100 * share[of])) in " ".join(door.split())


def accuracies() -> dict[tuple[str, float], float]:
    """The board's first task, by method, or by model where one was trained, and budget."""
    board = figures.rows(figures.read(RESULTS / "leaderboard"))
    rows = [row for row in board if row.task == "patchqa"]
    return {(r.model if r.trained else r.method, r.keep): r.right["overall"][0] for r in rows}


def test_what_the_choice_of_methods_says_is_so():
    page, share = " ".join((DOCS / "site" / "methods.md").read_text().split()), accuracies()
    fovea = [share["embedded-fovea", keep] for keep in (0.25, 0.0625)]
    told = "{:.1f} % at a quarter, {:.1f} % at a sixteenth"
    assert told.format(*(100 * one for one in fovea)) in page
    assert (
        "{:.1f} % there and {:.1f} % with a sixteenth".format(*(100 * one for one in fovea)) in DOOR
    )
    joined = "divprune, merged, proportional"
    mine = (share[joined, 0.125], share["divprune", 0.125], share["identity", 1.0])
    told = "answers {:.1f} % of PatchQA's questions so, {:.1f} % without, and all tokens answer {:.1f} %"
    assert told.format(*(100 * one for one in mine)) in page
    board = figures.rows(figures.read(RESULTS / "leaderboard"))
    (at,) = (at for at in advice(board) if at["tokens"] == 18)
    assert at["free"].method == joined
    cells = json.loads((RESULTS / "bench-llava-1.5-7b.json").read_text())["cells"]
    [fastv] = [c for c in cells if (c["method"], c["keep"]) == ("fastv", 64)]
    assert f"costs a 7B model as much as {fastv['equivalent_tokens']:.0f} tokens" in page


def test_the_cuts_of_methods_that_cut_more_than_once_are_so():
    """On a model of 32 layers and an image of 576 tokens."""
    page = (DOCS / "site" / "methods.md").read_text()
    rows = re.findall(r"^\| `(\w+(?:\(.*?\))?)` \| ([\d, ]+) \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for written, cuts, mean in rows:
        tokens, total, layer = foveate.VisualTokens.of(torch.randn(1, 576, 2)), 0, 0
        found = []
        for part in arguments.specs(written)[0].build().parts():
            seen = {"previous": tokens.x[..., :1]} if "previous" in part.needs else {}
            seen |= dict.fromkeys(part.needs - {"previous"}, tokens.x[..., 0])
            total += (part.site.layer - layer) * int(tokens.counts)
            tokens, layer = part(tokens, foveate.Context(**seen)), part.site.layer
            found.append(str(int(tokens.counts)))
        total += (32 - layer) * int(tokens.counts)
        assert (cuts, mean) == (", ".join(found), str(round(total / 32)))


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield import_module("hooks")
    sys.modules.pop("hooks")


def test_a_link_out_of_the_site_leads_to_the_repository_or_is_an_error(hooks, caplog):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="site/train.md"))
    config = SimpleNamespace(repo_url="https://host/foveate")
    text = "[a](../../examples/shop.py) [b](../index.md#ask) [c](evaluate.md)"
    changed = text.replace("../../", "https://host/foveate/blob/main/")
    assert hooks.on_page_markdown(text, page=page, config=config) == changed and not caplog.records
    hooks.on_page_markdown("[d](../../examples/shop.txt)", page=page, config=config)
    assert "examples/shop.txt, which is not there" in caplog.text


def test_a_name_without_a_docstring_is_an_error(hooks, caplog):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="site/api/train.md"))
    shown = '<h3 id="foveate.a"></h3><div class="doc doc-contents "><p>Said.</p></div>'
    hooks.on_page_content(shown, page=page)
    assert not caplog.records
    hooks.on_page_content(
        shown + shown.replace("<p>Said.</p>", "\n").replace(".a", ".b"), page=page
    )
    assert "foveate.b has no docstring" in caplog.text


def test_the_door_names_every_family(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    families = import_module("tables").FAMILIES
    sys.modules.pop("tables")
    door = " ".join((ROOT / "README.md").read_text().split())
    assert all(name in door for name in families)
    assert len(families) == 12 and "All twelve were tested" in door
