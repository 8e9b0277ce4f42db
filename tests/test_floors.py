"""The architecture, read from the imports; every check below is also shown a case where it must bark."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import foveate.methods
from foveate.core.compressor import Compressor
from foveate.methods import METHODS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "foveate"

# The rooms, from the ground up; imports run down, and not between rooms of one floor.
HOUSE = (
    ("core", "keeping"),
    ("statespace", "chat"),
    ("methods", "hosts"),
    ("registry", "records"),
    ("draw", "bench", "convert", "patchqa", "embedded"),
    ("tasks",),
    ("evaluate", "train"),
    ("audit", "ladder"),
    ("leaderboard", "engines", "serve"),
    ("cli",),
    ("__main__",),
)
FLOORS = {name: floor for floor, rooms in enumerate(HOUSE) for name in rooms}
TOP = FLOORS["cli"]
# What is below hosts and methods, and what it may import beside torch: a faster scan, readers of pictures.
GROUND = {"core": (), "keeping": (), "statespace": ("mamba_ssm",), "chat": ("PIL", "numpy")}
# Outside of hosts/, transformers is asked for its trainer and for configs by name, and reads nothing.
GENERAL = {
    "transformers.AutoConfig",
    "transformers.PreTrainedModel",
    "transformers.PrinterCallback",
    "transformers.ProcessorMixin",
    "transformers.Trainer",
    "transformers.TrainerCallback",
    "transformers.TrainingArguments",
    "transformers.set_seed",
    "transformers.utils.logging",
}

# What reads a checkpoint, or makes a model of what one says, and the only files that may call it.
READERS = {
    "from_pretrained": ("hosts/reading.py",),
    "from_config": ("hosts/reading.py",),
    "cached_file": ("hosts/reading.py",),
    "safe_open": ("hosts/files.py",),
    "load_file": ("convert/files.py",),  # of other code's checkpoints
    "torch.load": ("convert/files.py",),
    "snapshot_download": (),
    "hf_hub_download": (),
    "trust_remote_code": ("hosts/reading.py", "hosts/files.py"),
}
OWN = ("foveate", "saving")  # whose from_pretrained is ours

Sources = dict[str, str]  # path inside the package → source text


def sources() -> Sources:
    return {str(p.relative_to(PACKAGE)): p.read_text() for p in sorted(PACKAGE.rglob("*.py"))}


def room(path: str) -> str:
    return Path(path).parts[0].removesuffix(".py")


def imports(source: str, path: str) -> list[str]:
    """Everything imported anywhere in a file, as dotted names: `from a import b` is a.b."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = ["foveate", *Path(path).parts[:-1]]
            near = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (near, node.module)))
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def edges(files: Sources) -> list[tuple[str, str]]:
    """(path, imported name), the package's own __init__ exempt."""
    return [(p, name) for p, s in files.items() if p != "__init__.py" for name in imports(s, p)]


def target(name: str) -> str | None:
    """The room a name of foveate lives in; "" is the package itself, None somebody else's."""
    package, _, rest = name.partition(".")
    if package != "foveate":
        return None
    first = rest.partition(".")[0]
    return first if first in FLOORS else ""


def wrong_floors(files: Sources) -> list[str]:
    """Imports run down, never sideways; only the command line may use the package as users do."""
    wrong = [f"{p}: a room without a floor" for p in files if room(p) not in {*FLOORS, "__init__"}]
    loose = [p for p in files if Path(p).parent == Path() and not p.startswith("__")]
    wrong += [f"{p}: a module outside of every room" for p in loose]
    for path, name in edges(files):
        here, there = room(path), target(name)
        if there is None or here == there or here not in FLOORS:
            continue
        whole = there == "" and FLOORS[here] < TOP and name != "foveate"
        sideways = there in FLOORS and FLOORS[there] >= FLOORS[here]
        if whole or sideways:
            wrong.append(f"{path} imports {name}")
    return wrong


def wrong_transformers(files: Sources) -> list[str]:
    wrong = []
    for path, name in edges(files):
        package = name.partition(".")[0]
        alone = room(path) == "methods" or room(path) in GROUND
        if package == "transformers" and room(path) != "hosts" and (alone or name not in GENERAL):
            wrong.append(f"{path} imports {name}")
        if room(path) == "patchqa" and package in ("torch", "transformers"):
            wrong.append(f"{path} imports {name}: the task knows no models")
    return wrong


def wrong_core(files: Sources) -> list[str]:
    """The ground needs torch and the standard library, and of others what GROUND says."""
    fine = {"torch", "foveate", *sys.stdlib_module_names}
    return [
        f"{path} imports {name}"
        for path, name in edges(files)
        if room(path) in GROUND and name.partition(".")[0] not in {*fine, *GROUND[room(path)]}
    ]


def wrong_methods(files: Sources) -> list[str]:
    """A file with a class knows no other method; one without may put others together."""
    return [
        f"{path} imports {name}"
        for path, name in edges(files)
        if room(path) == "methods"
        and not path.endswith("__init__.py")
        and target(name) == "methods"
        and (has_a_class(files[path]) or name.endswith("methods.METHODS"))
    ]


def has_a_class(source: str) -> bool:
    return any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source)))


def wrong_questions(files: Sources, classes: set[str]) -> list[str]:
    """Nobody outside methods/ asks what method an object is: methods declare instead."""
    wrong = []
    for path, source in files.items():
        for node in ast.walk(ast.parse(source)) if room(path) != "methods" else ():
            asks = isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "isinstance",
                "issubclass",
            )
            if asks and classes & {
                getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node)
            }:
                wrong.append(f"{path}:{node.lineno} asks for a method's class")
    return wrong


def wrong_readers(files: Sources) -> list[str]:
    """One room reads checkpoints, so that no other forgets to run no code of them."""
    return [
        f"{path}:{node.lineno} reads by itself: {name}"
        for path, source in files.items()
        if path != "__init__.py"
        for node in ast.walk(ast.parse(source))
        for name in readers(node)
        if path not in READERS[name]
    ]


def readers(node: ast.AST) -> set[str]:
    """The names of READERS that a node mentions: as an attribute, an import, a keyword or a string."""
    names = []
    if isinstance(node, ast.Attribute):
        owner = getattr(node.value, "id", "")
        names = [] if owner in OWN else [node.attr, f"{owner}.{node.attr}"]
    if isinstance(node, ast.keyword):
        names = [node.arg]
    if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("foveate"):
        names = [name for a in node.names for name in (a.name, f"{node.module}.{a.name}")]
    if isinstance(node, ast.Constant):
        names = [node.value]
    return {name for name in names if isinstance(name, str)} & READERS.keys()


def missing(slug: str, doc: str | None, readme: str, tests: set[str]) -> list[str]:
    """What a method lacks besides its code."""
    wrong = []
    if not doc or ("arXiv:" not in doc and "no paper" not in doc):
        wrong.append(f"{slug}: the docstring names no paper, nor says 'no paper'")
    if f"test_{slug}.py" not in tests:
        wrong.append(f"{slug}: no tests/methods/test_{slug}.py")
    if f"| `{slug}` |" not in readme:
        wrong.append(f"{slug}: no row in README.md; `make docs` writes it")
    return wrong


def unlisted(files: Sources, listed: set[str]) -> set[str]:
    """Methods with a file and no line in METHODS, or the other way round."""
    stems = {Path(p).stem for p in files if room(p) == "methods"} - {"__init__"}
    return stems ^ listed


def test_imports_run_down_never_sideways():
    assert wrong_floors(sources()) == []


def test_contributing_shows_the_house_as_it_is():
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    shown = {int(floor): tuple(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows}
    assert shown == dict(enumerate(HOUSE))


def test_transformers_models_are_known_to_hosts_only():
    assert wrong_transformers(sources()) == []


def test_the_core_is_torch_only():
    assert wrong_core(sources()) == []


def test_no_method_knows_another():
    assert wrong_methods(sources()) == []


def test_nobody_asks_for_a_methods_class():
    own = {n for n, c in vars(foveate.methods).items() if isinstance(c, type)}
    assert "FastV" in own
    assert wrong_questions(sources(), own - {"Compressor"}) == []


def test_one_room_reads_checkpoints():
    assert wrong_readers(sources()) == []
    recipes = {f"recipes/{p.name}": p.read_text() for p in (ROOT / "recipes").rglob("*.py")}
    theirs = [one for one in wrong_readers(recipes) if "safe_open" not in one]
    assert [one for one in theirs if "torch.load" not in one] == []
    recipes = [s for s in recipes.values() if "torch.load(" in s]  # of what a run of theirs saved
    assert recipes and all(s.count("torch.load(") == s.count("weights_only=True") for s in recipes)
    calls = sources()["convert/files.py"].split("torch.load(")[1:]
    assert calls and all("weights_only=True" in call.partition("\n")[0] for call in calls)


def test_every_file_is_a_method_and_every_method_a_file():
    assert unlisted(sources(), set(METHODS)) == set()


@pytest.mark.parametrize("slug", METHODS)
def test_every_method_has_paper_test_and_row(slug):
    make = METHODS[slug]
    assert isinstance(make(), Compressor) and make.__module__ == f"foveate.methods.{slug}"
    about = getattr(make, "__self__", make)  # a classmethod speaks for its class
    tests = {p.name for p in (ROOT / "tests" / "methods").glob("*.py")}
    assert missing(slug, about.__doc__, (ROOT / "README.md").read_text(), tests) == []


@pytest.mark.parametrize(
    ("check", "path", "source"),
    [
        (wrong_floors, "core/tokens.py", "from foveate.methods import FastV"),
        (wrong_floors, "methods/a.py", "from foveate.hosts import traits"),
        (wrong_floors, "hosts/a.py", "def f():\n    import foveate.methods.fastv"),
        (wrong_floors, "bench/a.py", "from foveate.evaluate import score"),
        (wrong_floors, "bench/a.py", "from ..draw import draw"),
        (wrong_floors, "draw/a.py", "from foveate import compress"),
        (wrong_floors, "evaluate/a.py", "from foveate.cli import app"),
        (wrong_floors, "helpers.py", ""),
        (wrong_transformers, "bench/a.py", "from transformers import LlavaConfig"),
        (wrong_transformers, "cli/a.py", "import transformers.models.llava"),
        (wrong_transformers, "methods/a.py", "from transformers import AutoConfig"),
        (wrong_transformers, "patchqa/a.py", "import torch"),
        (wrong_core, "core/ops.py", "import numpy as np"),
        (wrong_core, "statespace/a.py", "from PIL import Image"),
        (wrong_floors, "core/a.py", "from foveate.keeping import held"),
        (wrong_floors, "evaluate/a.py", "from foveate.train import run"),
        (wrong_floors, "core.py", ""),
        (
            wrong_methods,
            "methods/a.py",
            "from foveate.methods.b import B\nclass A(Compressor): ...",
        ),
        (wrong_methods, "methods/a.py", "from .b import B\ndef f():\n    class A: ..."),
        (wrong_methods, "methods/a.py", "from foveate.methods import METHODS"),
        (wrong_transformers, "core/sizes.py", "from transformers import AutoConfig"),
        (lambda files: wrong_questions(files, {"FastV"}), "hosts/a.py", "isinstance(m, FastV)"),
        (
            lambda files: wrong_questions(files, {"FastV"}),
            "cli/a.py",
            "issubclass(m, (x.FastV, A))",
        ),
        (wrong_readers, "cli/a.py", "x = AutoModel.from_pretrained(path)"),
        (wrong_readers, "train/a.py", "read = kind.from_pretrained\nread(path)"),
        (wrong_readers, "bench/a.py", "AutoModel.from_config(config)"),
        (wrong_readers, "hosts/a.py", "from safetensors import safe_open"),
        (wrong_readers, "hosts/a.py", "safetensors.torch.load_file(path)"),
        (wrong_readers, "train/a.py", "torch.load(path)"),
        (wrong_readers, "train/a.py", "from torch import load"),
        (wrong_readers, "cli/a.py", "dict(trust_remote_code=True)"),
        (wrong_readers, "cli/a.py", "{'trust_remote_code': True}"),
        (wrong_readers, "cli/a.py", "getattr(AutoModel, 'from_pretrained')(path)"),
        (lambda files: unlisted(files, set()), "methods/a.py", ""),
        (lambda files: unlisted(files, {"a", "b"}), "methods/a.py", ""),
    ],
)
def test_every_check_can_fail(check, path, source):
    assert check({path: source})


@pytest.mark.parametrize(
    ("doc", "readme", "tests"),
    [
        ("Keeps a few.", "| `a` |", {"test_a.py"}),
        (None, "| `a` |", {"test_a.py"}),
        ("Keeps a few. arXiv:2403.06764", "| `b` |", {"test_a.py"}),
        ("Keeps a few: no paper.", "| `a` |", {"test_b.py"}),
    ],
)
def test_what_a_method_lacks_is_noticed(doc, readme, tests):
    assert len(missing("a", doc, readme, tests)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "methods/a.py",
            "from foveate.core.ops import top\nfrom foveate.core.compressor import Compressor",
        ),
        ("core/compressor.py", "from foveate.core.tokens import VisualTokens"),
        ("methods/a.py", "from foveate.methods.b import B\ndef a():\n    return Chain(B(), B())"),
        ("bench/a.py", "from foveate.bench.clock import x\nfrom foveate.hosts import cost"),
        ("bench/a.py", "from transformers import AutoConfig"),
        ("cli/a.py", "model = foveate.from_pretrained(path)"),
        ("cli/a.py", "import foveate\nfrom foveate.evaluate import score"),
        ("__init__.py", "from foveate.cli import app"),
    ],
)
def test_what_is_allowed_passes(path, source):
    files = {path: source}
    checks = (wrong_floors, wrong_transformers, wrong_core, wrong_methods, wrong_readers)
    assert [wrong for check in checks for wrong in check(files)] == []
