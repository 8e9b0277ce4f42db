"""What the leaderboard runs, and what each run depends on."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveate.core.compressor import Compressor, language
from foveate.core.ops import Keep
from foveate.core.spec import Skipped, Spec
from foveate.evaluate import baselines
from foveate.evaluate.comparison import BARE, LOWER
from foveate.evaluate.plans import Plan, fitting, plan
from foveate.evaluate.results import USUAL
from foveate.evaluate.runs import digest
from foveate.evaluate.work import Work
from foveate.hosts.prompted import PROMPT_ROWS
from foveate.hosts.whole import fingerprint
from foveate.methods import METHODS
from foveate.tasks.metrics import EXACT

SEEDS = (0, 1, 2)
SAYS = frozenset({"count", "left", "but", "_called", "extra_repr", "__str__"})  # of a compressor
SWITCHED = ("dropped", "attention")  # what may be asked of any method, beside its own positions
KEEPS = (0.5, 0.25, 0.125, 0.0625)
PACKAGE = Path(inspect.getsourcefile(Compressor) or "").parents[1]
SHARED = ("core", "statespace", "methods")  # rooms whose code a method's answers depend on


@dataclass(frozen=True)
class Entry:
    """One run of the board.

    key   what its answers depend on: equal keys, equal answers
    what  how its row is shown: reads the question, acts inside, trained, and with which switches
    """

    task: str
    plan: Plan
    key: dict[str, Any]
    what: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its file: readable, and another for another run of the same board."""
        switched = "-".join(self.what["switches"]) or None
        own = (self.key["method"], self.key["keep"], switched, self.key.get("metric"))
        parts = (self.task, self.key["model"], *own)
        words = [re.sub(r"[^\w.]+", "_", str(p)).strip("_") for p in parts if p is not None]
        seed = [] if self.key["seed"] is None else [f"seed{self.key['seed']}"]
        return "-".join([*words, *seed])


def entries(
    work: Work,
    specs: Sequence[Spec] | None = None,
    keeps: Sequence[Keep] = KEEPS,
    trained: Sequence[Plan] = (),
) -> tuple[list[Entry], list[Skipped]]:
    """The runs on a task, the bare model and the baselines first, and what there cannot be.

    specs None is every method that needs no training. What draws at random runs with three seeds. trained:
    plans of models that were trained with a method.
    """
    loaded = work.loaded
    asked, skipped = plan(_listed() if specs is None else specs, keeps)
    fit, unfit = fitting(loaded, [seeded for one in asked for seeded in _seeded(one)])
    low, unmade = baselines.baselines(loaded, LOWER, keeps, work.examples)
    questions = digest(work.examples)
    every = [*fit[:1], *low, *fit[1:], *trained]
    return [_entry(work, one, questions) for one in every], [*skipped, *unfit, *unmade]


def _listed() -> list[Spec]:
    """The methods without weights of their own."""
    specs = [Spec(slug, make) for slug, make in METHODS.items() if slug != BARE]
    return [spec for spec in specs if not any(True for _ in spec.tried().parameters())]


def _seeded(one: Plan) -> list[Plan]:
    """A plan for each seed, where its method draws at inference."""
    spec = one.spec
    if spec is None or "seed" in spec.arguments:
        return [one]
    if not any("generator" in part.needs for part in spec.tried(one.keep).every()):
        return [one]
    given = [replace(spec, arguments={**spec.arguments, "seed": seed}) for seed in SEEDS]
    return [one._replace(spec=other) for other in given]


def _entry(work: Work, one: Plan, questions: str) -> Entry:
    own = work.of(one)
    parts = [] if one.compressor is None else one.compressor.every()
    seed = None if one.spec is None else one.spec.arguments.get("seed")
    method = one.method if one.spec is None else one.spec.slug
    given = {} if one.spec is None else {**one.spec.arguments}
    given.pop("seed", None)
    written = str(Spec(method, Compressor, given)) if given else method
    key = {
        "task": work.task,
        "examples": questions,
        "n": len(work.examples),
        "model": own.name,
        "fingerprint": fingerprint(own.model, None if one.spec else one.compressor),
        "method": written,
        "keep": one.keep,
        "seed": seed,
        "compressor": repr(one.compressor),
        "how": dict(one.how),
        "code": code(parts, one.method),
    }
    if work.metric is not EXACT:
        key["metric"] = work.metric.name
    needs = frozenset().union(*(part.needs for part in parts))
    switched = {name: word for name, word in one.how.items() if name in SWITCHED}
    what = {
        "switches": sorted(word for name, word in switched.items() if word != USUAL[name]),
        "trained": one.trained is not None,
        "question": bool(needs & ({"text", "text_ids"} | PROMPT_ROWS)),
        "inside": any(part.site > language(0) for part in parts),
        "baseline": one.method in (BARE, *LOWER),
    }
    return Entry(work.task, one, json.loads(json.dumps(key)), what)


def code(parts: Sequence[Compressor], method: str) -> str:
    """A short name for the code that decides what is kept, whatever its comments and its layout.

    The files of the compressors, and of the shared rooms what they use, and what that uses.
    """
    files = {Path(inspect.getsourcefile(type(part)) or "") for part in parts}
    files |= {Path(inspect.getsourcefile(baselines) or "")} if method in LOWER else set()
    new: set[Used] = {Used(file, None) for file in files}
    seen: set[Used] = set()
    while new:
        seen |= new
        new = {used for one in new for used in one.uses()} - seen
    told = sorted(text for one in seen for text in one.told())
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Used:
    """A file of ours, or one thing that is defined in it."""

    file: Path
    name: str | None

    def told(self) -> list[str]:
        """Its code without docstrings and what only says, as a tree in words."""
        return [ast.dump(node) for node in self._nodes()]

    def uses(self) -> Iterator[Used]:
        """What its code names: of the same file, or imported from a shared room."""
        names = {n.id for node in self._nodes() for n in ast.walk(node) if isinstance(n, ast.Name)}
        for name in names & _defined(self.file).keys() if self.name else ():
            yield Used(self.file, name)
        for name, file in _imported(self.file).items():
            if name in names:
                yield Used(file, name)

    def _nodes(self) -> list[ast.stmt]:
        every = _defined(self.file)
        found = list(every.values()) if self.name is None else [every[self.name]]
        return [_bare(node) for node in found]


@functools.cache
def _defined(file: Path) -> dict[str, ast.stmt]:
    """What a file defines, by name; other statements by their line."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
        elif not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr):
            found[f"line {node.lineno}"] = node
    return found


@functools.cache
def _imported(file: Path) -> dict[str, Path]:
    """What a file imports from the shared rooms, by name, and where that is defined."""
    found = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foveate.")):
            continue
        room, *rest = (node.module or "").split(".")[1:]
        path = PACKAGE.joinpath(room, *rest).with_suffix(".py")
        if room in SHARED and path.exists():
            found |= {a.name: path for a in node.names if a.name in _defined(path)}
    return found


def _bare(tree: ast.stmt) -> ast.stmt:
    """A copy without docstrings, without what a compressor says and does not do, and without empty fields.

    A field that is None unless it is given changes no answer until code reads it; the code is here.
    """
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [one for one in node.body if not (_says(one) or _empty(one))]
        first = getattr(node, "body", None)
        first = first[0] if isinstance(first, list) and first else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = node.body[1:]
    return tree


def _says(node: ast.stmt) -> bool:
    return getattr(node, "name", None) in SAYS


def _empty(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.value or node) == "None"
