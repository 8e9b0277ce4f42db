"""Broken copies of a saved model, drawn from a seed: its files cut, swapped and rewritten."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES = [
    *(None, True, 0, -1, 1, 7, 10**12, 2**70, 1.5, float("nan"), float("inf")),
    *("", "x", "7", "ÿ\ud7ff", "a" * 5000, [], [1, "x"], {}, {"a": {"b": []}}),
]
PLACES = ("config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json")


def copied(model: Path, folder: Path) -> Path:
    """A copy of a saved model, its weights as links."""
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix == ".safetensors":
            (folder / file.name).symlink_to(file)
        elif file.suffix != ".md":
            shutil.copy(file, folder / file.name)
    return folder


def rewritten(folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """The folder with the settings of one file changed in place, or replaced by what is returned."""
    file = folder / name
    said = json.loads(file.read_text()) if file.exists() else {}
    made = change(said)
    file.write_text(json.dumps(said if made is None else made))
    return folder


def put(folder: Path, name: str, content: bytes | str | None) -> Path:
    """The folder with other content in a file; "folder" makes it one, None leaves it out."""
    file = folder / name
    file.unlink(missing_ok=True)
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def mutate(folder: Path, seed: int) -> str:
    """Break one file of a saved model, and say how."""
    draw = random.Random(seed)
    names = sorted(p.name for p in folder.iterdir())
    if draw.random() < 0.35:
        return _bytes(folder, draw.choice(names), draw)
    return _value(folder, draw.choice(PLACES), draw)


def _bytes(folder: Path, name: str, draw: random.Random) -> str:
    """A file cut, emptied, with a byte of another value, removed, or a folder in its place."""
    content = (folder / name).read_bytes()
    at = draw.randrange(len(content))
    kinds = {
        "cut": content[:at],
        "flipped": content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :],
        "without": content[:at] + content[at + draw.randrange(1, 9) :],
        "empty": b"",
        "other": b"\x00\xff{[" * 9,
        "missing": None,
        "folder": "folder",
    }
    kind = draw.choice(sorted(kinds))
    put(folder, name, kinds[kind])
    return f"{name} {kind} at {at}"


def _value(folder: Path, name: str, draw: random.Random) -> str:
    """One setting of another value, without it, or with one more."""
    said = json.loads((folder / name).read_text())
    holder, path = said, [name]
    while True:
        key = draw.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        path.append(str(key))
        if isinstance(holder[key], (dict, list)) and holder[key] and draw.random() < 0.8:
            holder = holder[key]
            continue
        value = draw.choice([*VALUES, copy.deepcopy(said)])
        if draw.random() < 0.15:
            del holder[key]
            value = "nothing"
        else:
            holder[key] = value
        (folder / name).write_text(json.dumps(said))
        return f"{'.'.join(path)} = {value!r:.60}"
