"""A seeded generator of command lines that are wrong, in one way or in two, and what each must do.

Commands, arguments and options are read from the command tree itself, so a new one is drawn from the
moment it exists. Small files, whole and broken, stand in a folder; every call has a folder of its own.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load

from foveate.cli import app
from foveate.methods import METHODS
from foveate.patchqa import PatchQA
from foveate.tasks import TASKS
from foveate.train import RECIPES

LONG = 10_000
# fmt: off
NUMBERS = [
    "1e400", "-1", "0", "-0.0", "nan", "inf", "-inf", "0x10", "1_0", "٣", "½", "²", "1.5", "1e9", "", " ",
    "True", "None", "--", "1,2", "+1", "1e-400", "2147483648", "18446744073709551616", "10000000000",
    "1" + 30 * "0", "-1" + 30 * "0", "1" + 400 * "0", "9" * 5000,
]
TEXTS = [
    "", " ", "\0", "a\0b", "\x1b[31mred\x1b[0m", "two\nlines", "\r", "\udcff", "½", "'", '"', "💥", "[red]",
    "[/red]", "{}", "%s", "..", "/", "-", "--", "\u202e", "\u2028", ",", ",,", "()", "=", "==", "~", "a/b",
    "a/b/c", "None", "identity", "x" * LONG, "word " * (LONG // 5), "/" * LONG,
]
LITERALS = [
    "[" * 5000, "(" * 300 + ")" * 300, "-" * 5000 + "1", "~" * 99_999 + "1", "1+" * 3000 + "1", "9" * 5000,
    "[" + "1, " * 5000 + "]", "{1: 2}", "{1}", "b'x'", "1j", "1 + 1j", "[1, 2", "[nan]", "[1e400]", "1e400",
    "-1e400", "None", "...", r"'\d'", "[[[1]]]", "1if 1else 2", "f'{1}'", "[True]", "['a']", "[]", "()",
    "(1,)", "[1, 'a', None]", "true", "'\udcff'", "[-1]", "[0]", "[1" + 30 * "0" + "]",
]
SPECS = [
    "fastv(", "fastv)", "fastv()()", "fastv(keep)", "fastv(keep=)", "fastv(=1)", "fastv(,)", "(", "()",
    "pool(stride=2, stride=4)", "fastv(keep=1,keep=2)", "fastv,,", "fastv(layer=(1))", "Fastv", "fast v",
    "random(seed=-1)", "random(seed=1e400)", "pool(stride=" + "[" * 5000 + ")", "stride(keep=nan)",
]
# What makes a call of each command right and cheap; the mistakes are made in these.
GOOD = {
    "image": "good.png", "question": "what ?", "recipe": "llavolta_light_patchqa", "source": "model",
    "out": "out", "model": "embedded", "task": "patchqa", "methods": "stride", "method": "stride",
    "keeps": "0.25", "keep": "0.25", "limit": "1", "seed": "1", "batch_size": "1", "max_new_tokens": "1",
    "scenes": "1", "trained": "", "layers": "1", "picture": "new.png", "device": "cpu", "batch_sizes": "1",
    "new_tokens": "1", "pairs": "1", "rounds": "1", "dtype": "float32", "vision": "model",
    "language": "model", "vision_layers": "1", "baselines": "", "asked": "patchqa", "pages": "pages",
}
# fmt: on
COUNTS = ("keep", "keeps", "layers", "vision_layers", "batch_sizes", "new_tokens")
PLACES = ("model", "trained", "vision", "language", "image", "source", "out", "pages")
FIGURES = {"scales": {"picture": "new.svg"}, "guidance": {"picture": "new.svg", "methods": "fastv"}}
CHEAP = {  # options that every call of a command has, so that what is not refused ends soon
    "ask": ["max_new_tokens"],
    "compare": ["methods", "keeps", "limit", "max_new_tokens", "scenes", "trained", "--no-timing"],
    "eval": ["limit", "max_new_tokens"],
    "audit": ["methods", "keeps", "limit", "max_new_tokens"],
    "calibrate": ["keeps", "limit", "max_new_tokens"],
    "tune": ["methods", "keeps", "limit", "max_new_tokens"],
    "leaderboard": ["asked", "methods", "keeps", "limit", "max_new_tokens", "trained"],
    "draw tokens": ["max_new_tokens"],
    "draw layers": ["max_new_tokens", "layers"],
    "draw scales": ["limit"],
    "draw guidance": ["methods", "limit", "layers", "max_new_tokens", "--no-timing"],
    "bench": ["--count-only", "methods"],
    "train": ["--set=steps=1", "--set=batch=1", "--set=micro_batch=1"],
}


RICH = ("set_", "methods", "method", "model")  # parameters with many ways to be wrong: drawn thrice


@dataclass(frozen=True)
class Call:
    """A command line, and what was done to it."""

    command: str
    words: list[str]
    mistakes: list[str]

    def __str__(self) -> str:
        words = [w if len(w) < 80 else f"{w[:40]}…({len(w)})" for w in self.words]
        return f"{' '.join(map(repr, words))}  [{'; '.join(self.mistakes)}]"


def commands() -> dict[str, Any]:
    """Every command by what is typed for it."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
        for word, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {word}".strip())

    return dict(walk(typer.main.get_command(app), ""))


def draws(seed: int, n: int, files: list[str]) -> Iterator[Call]:
    """n calls; every command and every option comes round before any comes twice as often.

    files: names of files and folders, broken and whole, as the calls find them where they run.
    """
    dice = random.Random(seed)
    there = commands()
    turns: list[tuple[str, Any]] = []
    for _ in range(n):
        if not turns:
            turns = [
                (name, param)
                for name, one in there.items()
                for param in (*one.params, None)
                for _ in range(3 if getattr(param, "name", "") in RICH else 1)
            ]
            dice.shuffle(turns)
        name, param = turns.pop()
        yield Draw(dice, there, files, name).call(param)


class Draw:
    """One call in the making: the words of each argument and option, and the mistakes so far."""

    def __init__(self, dice: random.Random, there: dict[str, Any], files: list[str], name: str):
        self.dice, self.there, self.files, self.name = dice, there, files, name
        self.called, self.command, self.mistakes = name, there[name], []
        self.good = {**GOOD, **FIGURES.get(name.split()[-1], {})}
        self.given: dict[str, list[str]] = {}
        self.last: list[str] = []
        by_name = {param.name: param for param in self.command.params}
        for param in self.command.params:
            if param.param_type_name == "argument":
                self.given[param.name] = [self.good[param.name]]
        for want in CHEAP.get(name, []):
            if want in by_name:
                self.given[want] = [option(by_name[want]), self.good[want]]
            else:
                self.given[want] = want.split("=", 1) if want.startswith("--set") else [want]

    def call(self, param: Any) -> Call:
        """The call with a mistake at this parameter, or in its form; often with a second one."""
        self.wrong(param)
        if self.dice.random() < 0.4:
            self.wrong(self.dice.choice([*self.command.params, None]))
        if self.dice.random() < 0.3 and any(p.name == "json" for p in self.command.params):
            self.given.setdefault("json", ["--json"])
        words = [word for words in self.given.values() for word in words]
        return Call(self.called, [*self.name.split(), *words, *self.last], self.mistakes)

    def wrong(self, param: Any) -> None:
        """One mistake more."""
        if param is None or is_flag(param):
            return self.misshapen()
        value = self.value(param)
        self.mistakes.append(f"{param.name} is {value[:30]!r}")
        argument = param.param_type_name == "argument"
        self.given[param.name] = [value] if argument else [option(param), value]
        if argument and value.startswith("-"):
            self.given[param.name] = ["--", value] if self.dice.random() < 0.5 else [value]
        return None

    def value(self, param: Any) -> str:
        """A wrong value for a parameter, of the kinds its name and type call for."""
        kind = str(param.type_descriptor.annotation) if hasattr(param, "type_descriptor") else ""
        name, pick = param.name, self.dice.choice
        if name in ("set_",):
            return self.pair()
        if "methods" in name or name == "method":
            return pick([*SPECS, *TEXTS, *METHODS, *(f"{slug}({self.pair()})" for slug in METHODS)])
        if "int" in kind or name in COUNTS:
            return pick([*NUMBERS, *TEXTS] if self.dice.random() < 0.3 else NUMBERS)
        if name == "task":
            return pick([*TEXTS, *TASKS])
        if "Path" in kind or name in PLACES:
            return pick([*self.files, *self.files, *TEXTS])
        return pick([*TEXTS, *NUMBERS[:8], *self.files[:4]])

    def pair(self) -> str:
        """An argument of a method or a field of a recipe, and a value that does not fit."""
        if self.name == "train":
            recipe = RECIPES[self.good["recipe"]]()
            names = [
                f.name for f in dataclasses.fields(recipe) if f.name not in ("name", "workers")
            ]
            names += ["trains.language", "trains.nothing", "arguments.keep", "lora.rank", "lora"]
        else:
            names = [n for make in METHODS.values() for n in inspect.signature(make).parameters]
        name = self.dice.choice([*names, *names, "", "keep", "x" * LONG, "\x1b", "\0"])
        value = self.dice.choice([*NUMBERS, *LITERALS, *TEXTS, *self.files])
        return self.dice.choice([f"{name}={value}"] * 9 + [name])

    def misshapen(self) -> None:
        """A mistake in the form of the call: words too many, too few, unknown, twice, or of others."""
        dice = self.dice
        others = [o for c in self.there.values() for p in c.params for o in p.opts if o[:1] == "-"]
        kind = dice.choice(
            ["unknown", "typo", "other", "missing", "twice", "extra", "flag", "bare", "command"]
        )
        self.mistakes.append(kind)
        own = dice.choice([o for p in self.command.params for o in p.opts if o[:1] == "-"])
        if kind == "unknown":
            odd = ["--bogus", "-x", "--\x1b[31m", "--=", "---", "--" + "x" * LONG, "--\udcff"]
            self.last.append(dice.choice(odd))
        elif kind == "typo":
            self.last += [own[:-1], "1"]
        elif kind == "other":
            self.last += [dice.choice(others), dice.choice(["1", "x", ""])]
        elif kind == "missing":  # never what keeps a call cheap
            needed = [p.name for p in self.command.params if p.param_type_name == "argument"]
            self.given.pop(dice.choice([*needed, ""]), None)
        elif kind == "twice" and self.given:
            self.last += self.given[dice.choice(list(self.given))]
        elif kind == "flag":
            self.last.append(f"--json={dice.choice(['1', '', 'x'])}")
        elif kind == "bare":
            self.last.append(own)
        elif kind == "command":
            word = dice.choice([*TEXTS, self.name.upper(), self.name[:-1]])
            self.name = word if "\n" in word or not word.split() else word.split()[0]
        else:
            self.last.append(dice.choice(["extra", "", "\0", "-", "x" * LONG]))


def option(param: Any) -> str:
    """The first long name of an option."""
    return next(name for name in param.opts if name.startswith("--"))


def is_flag(param: Any) -> bool:
    """Whether an option takes no value."""
    return bool(getattr(param, "is_flag", False))


def make_files(folder: Path) -> list[str]:
    """Images, models and data, whole and broken, in a folder; their names."""
    good = PatchQA("test")[0].images[0]
    good.save(folder / "good.png")
    data = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(data[:900])
    (folder / "text.png").write_text("not an image\n")
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    (folder / "folder.json").mkdir()
    Image.new("1", (4_000, 4)).save(folder / "thin.png")
    Image.new("RGBA", (30, 40), (0, 0, 0, 0)).save(folder / "clear.png")
    Image.new("I;16", (30, 40), 30_000).save(folder / "deep.png")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(data)
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere.png").symlink_to("not/there.png")
    for name, text in {
        "model": None,
        "broken-config": "{",
        "empty-config": "",
        "list-config": "[]",
        "no-type": "{}",
        "odd-type": '{"model_type": "odd"}',
        "odd-values": '{"model_type": "llava", "text_config": 5}',
        "no-weights": '{"model_type": "llava"}',
        os.fsdecode(b"mod\xe8le"): "{}",
    }.items():
        (folder / name).mkdir()
        if text is not None:
            (folder / name / "config.json").write_text(text)
    for name, text in {
        "broken.json": '[{"id": 1',
        "numbers.json": "[1, 2]",
        "object.json": "{}",
        "null.jsonl": "null\nnull\n",
        "records.json": '[{"image": "none.png", "conversations": []}]',
        "latin.json": "",
        "empty.json": "",
        "word.safetensors": "x",
        "mm_projector.bin": "x",
    }.items():
        (folder / name).write_text(text)
    (folder / "latin.json").write_bytes(b'[{"id": "\xe9"}]')
    return [
        *sorted(path.name for path in folder.iterdir()),
        "missing.png",
        "missing/new.png",
        "missing",
    ]


def halves(folder: Path, before: set[Path]) -> list[str]:
    """The new files in a folder that are not whole."""
    fresh = (p for p in folder.rglob("*") if p not in before and p.is_file())
    return [f"{path.name}: {why}" for path in fresh if (why := half(path))]


def half(path: Path) -> str:
    """Why a file is not whole; empty if it is."""
    kind = path.suffix.lower()
    try:
        if kind == ".tmp":
            return "left behind"
        named = kind in Image.registered_extensions() and path.read_bytes()[:1] == b"{"
        if kind == ".json" or named:  # bench writes JSON to any name
            json.loads(path.read_text(encoding="utf-8"))
        elif kind == ".jsonl":
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        elif kind == ".safetensors":
            load(path.read_bytes())  # it opens no path that is no UTF-8
        elif kind in (".html", ".svg"):
            return "" if f"</{kind[1:]}>" in path.read_text()[-20:] else "cut off"
        elif kind == ".pdf":
            return "" if b"%%EOF" in path.read_bytes()[-16:] else "cut off"
        elif kind in Image.registered_extensions():
            with Image.open(path) as image:
                image.load()
    except (OSError, ValueError, SyntaxError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def faults(call: Call, code: Any, out: str, err: str) -> list[str]:
    """What is wrong with how a call ended; empty if nothing is."""
    found = []
    ours = [line for line in err.splitlines() if line.startswith("foveate:")]
    if code not in (0, 1, 2):
        found.append(f"exit code {code}")
    if "Traceback" in err or "Exception ignored" in err:
        found.append("a traceback")
    if any(line.startswith("foveate: unexpected ") for line in ours):
        found.append("unexpected")
    if code and (len(ours) != 1 or err.splitlines()[-1:] != ours):
        found.append(f"{len(ours)} lines of an error")
    if code and out:
        found.append("an answer beside an error")
    if any(len(line) > 3_000 for line in err.splitlines()):
        found.append("a line of more than 3,000 letters")
    if any(not (letter.isprintable() or letter == "\n") for letter in err):
        found.append("letters that cannot be seen")
    if code == 0 and "--json" in call.words and not out.startswith("Usage"):
        try:
            json.loads(out)
        except ValueError:
            found.append("no JSON")
    return found


def fresh_copy(files: Path, place: Path) -> set[Path]:
    """The files where one call may do as it likes; what is there before it."""
    shutil.copytree(files, place, symlinks=True)
    return {*place.rglob("*")}
