"""The architecture, read from the imports; every check below is also shown a case where it must bark."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import foveate.methods
from foveate.compressor import Compressor
from foveate.methods import METHODS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "foveate"

FLOORS = {
    **dict.fromkeys(
        (
            "tokens",
            "compressor",
            "sizes",
            "spec",
            "warm",
            "ops",
            "scan",
            "statespace",
            "routes",
            "held",
            "provenance",
            "chat",
        ),
        0,
    ),
    **dict.fromkeys(("methods", "hosts"), 1),
    **dict.fromkeys(
        ("draw", "bench", "convert", "loading", "patchqa", "embedded", "evaluate", "train"), 2
    ),
    "cli": 3,
    "__main__": 4,
}
# Outside of hosts/, transformers is asked for whole models, processors and its trainer, by general names.
GENERAL = {
    "transformers.AutoConfig",
    "transformers.AutoModelForImageTextToText",
    "transformers.AutoProcessor",
    "transformers.PreTrainedModel",
    "transformers.PrinterCallback",
    "transformers.ProcessorMixin",
    "transformers.Trainer",
    "transformers.TrainerCallback",
    "transformers.TrainingArguments",
    "transformers.set_seed",
    "transformers.utils.logging",
}

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
    for path, name in edges(files):
        here, there = room(path), target(name)
        if there is None or here == there or here not in FLOORS:
            continue
        whole = there == "" and FLOORS[here] < 3 and name != "foveate"
        both_core = there in FLOORS and FLOORS[here] == FLOORS[there] == 0
        sideways = there in FLOORS and FLOORS[there] >= FLOORS[here] and not both_core
        if whole or sideways:
            wrong.append(f"{path} imports {name}")
    return wrong


def wrong_transformers(files: Sources) -> list[str]:
    wrong = []
    for path, name in edges(files):
        package = name.partition(".")[0]
        alone = room(path) == "methods" or FLOORS.get(room(path)) == 0
        if package == "transformers" and room(path) != "hosts" and (alone or name not in GENERAL):
            wrong.append(f"{path} imports {name}")
        if room(path) == "patchqa" and package in ("torch", "transformers"):
            wrong.append(f"{path} imports {name}: the task knows no models")
    return wrong


def wrong_core(files: Sources) -> list[str]:
    """Floor 0 needs torch and the standard library, no more; a faster kernel may be there."""
    fine = {"torch", "foveate", "mamba_ssm", *sys.stdlib_module_names}
    return [
        f"{path} imports {name}"
        for path, name in edges(files)
        if FLOORS.get(room(path)) == 0 and name.partition(".")[0] not in fine
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
        (wrong_floors, "tokens.py", "from foveate.methods import FastV"),
        (wrong_floors, "methods/a.py", "from foveate.hosts import traits"),
        (wrong_floors, "hosts/a.py", "def f():\n    import foveate.methods.fastv"),
        (wrong_floors, "bench/a.py", "from foveate.evaluate import score"),
        (wrong_floors, "bench/a.py", "from ..draw import draw"),
        (wrong_floors, "draw.py", "from foveate import compress"),
        (wrong_floors, "evaluate/a.py", "from foveate.cli import app"),
        (wrong_floors, "helpers.py", ""),
        (wrong_transformers, "bench/a.py", "from transformers import LlavaConfig"),
        (wrong_transformers, "cli/a.py", "import transformers.models.llava"),
        (wrong_transformers, "methods/a.py", "from transformers import AutoConfig"),
        (wrong_transformers, "patchqa/a.py", "import torch"),
        (wrong_core, "ops.py", "import numpy as np"),
        (
            wrong_methods,
            "methods/a.py",
            "from foveate.methods.b import B\nclass A(Compressor): ...",
        ),
        (wrong_methods, "methods/a.py", "from .b import B\ndef f():\n    class A: ..."),
        (wrong_methods, "methods/a.py", "from foveate.methods import METHODS"),
        (wrong_transformers, "sizes.py", "from transformers import AutoConfig"),
        (lambda files: wrong_questions(files, {"FastV"}), "hosts/a.py", "isinstance(m, FastV)"),
        (
            lambda files: wrong_questions(files, {"FastV"}),
            "cli/a.py",
            "issubclass(m, (x.FastV, A))",
        ),
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
        ("methods/a.py", "from foveate.ops import top\nfrom foveate.compressor import Compressor"),
        ("compressor.py", "from foveate.tokens import VisualTokens"),
        ("methods/a.py", "from foveate.methods.b import B\ndef a():\n    return Chain(B(), B())"),
        ("bench/a.py", "from foveate.bench.clock import x\nfrom foveate.hosts import cost"),
        ("bench/a.py", "from transformers import AutoConfig"),
        ("cli/a.py", "import foveate\nfrom foveate.evaluate import score"),
        ("__init__.py", "from foveate.cli import app"),
    ],
)
def test_what_is_allowed_passes(path, source):
    files = {path: source}
    checks = (wrong_floors, wrong_transformers, wrong_core, wrong_methods)
    assert [wrong for check in checks for wrong in check(files)] == []
