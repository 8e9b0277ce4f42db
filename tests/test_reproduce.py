"""docs/reproduce.md: its commands parse, its recipes exist, its Python runs, its table names every method."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from PIL import Image

import foveate
from foveate import METHODS, embedded
from foveate.cli import app, arguments
from foveate.cli.recipes import chosen
from foveate.train import RECIPES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line):
    """As far as it goes without a model: options, methods with their arguments and budgets, recipes."""
    program, name, *words = shlex.split(line)
    assert program == "foveate"
    command = typer.main.get_command(app).commands[name]
    given = command.make_context(name, words).params
    if slug := given.get("method"):
        arguments.chosen(slug, arguments.budget(given["keep"]), given["set_"] or []).build()
    if listed := given.get("methods"):
        specs = arguments.specs(listed)
        assert specs and arguments.budgets(given["keeps"], specs)
    if name == "train":
        assert chosen(given["recipe"], []).name == given["recipe"]


def test_it_names_every_method_and_recipes_that_exist():
    rows = re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE)
    named = {slug for row in rows for slug in re.findall(r"`(\w+)`", row)}
    assert named == {*METHODS}
    recipes = set(re.findall(r"`(\w+_(?:7b|8b)(?:_pretrain)?)`", PAGE))
    assert len(recipes) > 8 and recipes <= {*RECIPES}
    assert "(docs/reproduce.md)" in (ROOT / "README.md").read_text()


def test_its_python_runs():
    model, processor = embedded.load()
    with Image.open(ROOT / "examples" / "shop.png") as file:
        known = {
            "foveate": foveate,
            "model": model,
            "processor": processor,
            "image": file.convert("RGB"),
        }
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "reproduce.md", "exec"), known)
    known["model"].generate(**known["inputs"], max_new_tokens=1)
    assert foveate.last_counts(model) == [64]
    assert processor.chat_template != known["processor"].chat_template
