"""The model a person named: one that comes with foveate, a directory, or a Hub id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.cli.wrong import Failed, Wrong, nearest, unknown

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
EMBEDDED = "embedded"
FILES = (
    ".json",
    ".safetensors",
    ".bin",
    ".gguf",
    ".pt",
    ".jinja",
)  # of a model, or of what might be one


@dataclass(frozen=True)
class Loaded:
    """A model ready for inference, its processor, and what to call it."""

    model: Any
    processor: Any
    name: str


def load(name: str = EMBEDDED, device: str = "auto") -> Loaded:
    """The model and its processor; one that was saved compressed comes back compressed.

    Raises Wrong for names that cannot be one, Failed if it cannot be read.
    """
    import torch

    from foveate.embedded import MODELS

    path = place(name)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _loading(name):
        target = torch.device(device)
        model, processor = _read(path)
        model = model.to(target).eval()
    as_typed = name in MODELS or not Path(path).is_dir()
    return Loaded(model, processor, name if as_typed else Path(path).name)


def skeleton(name: str = EMBEDDED) -> Any:
    """The model without its weights, from its config alone. Raises Wrong or Failed as `load` does."""
    from foveate.bench import CONFIGS
    from foveate.embedded import MODELS, carried
    from foveate.hosts import cost, reading

    if name in CONFIGS:
        return cost.skeleton(CONFIGS[name].config())
    if name not in MODELS and "/" not in name and not Path(name).exists():
        raise unknown("model", name, [*carried(), *CONFIGS])
    with _loading(name):
        config = reading.config(path := place(name))
        reading.check_kind(path, config)
        return cost.skeleton(config)


def place(name: str) -> str:
    """Where to load a model from. Raises Wrong for what is neither a model's directory nor a Hub id."""
    from foveate.embedded import MODELS, carried

    there = carried()
    if name in MODELS:
        if name not in there:
            raise Failed(f"this copy of foveate carries no model {name!r}: name another")
        return str(MODELS[name])
    path = Path(name).expanduser()
    if path.is_dir():
        _check_model(path)
        return str(path.resolve())
    if path.is_file() and path.suffix in FILES:
        raise Wrong(
            f"model {name} is a file: want the folder of a saved model, such as {path.parent}"
        )
    if path.exists() or not HUB_ID.fullmatch(name) or name.startswith("."):
        names = ", ".join(map(repr, there))
        raise Wrong(
            f"model {name}: {nearest(name, there)}want {names}, a directory with a saved model, or "
            "owner/name"
        )
    return name


def _check_model(folder: Path) -> None:
    """Raises Wrong for a folder without a saved model."""
    from foveate.hosts import files

    try:
        files.refuse_no_model(folder)
    except files.Unreadable as error:
        raise Wrong(f"model {error}") from error


def _read(path: str) -> tuple[Any, Any]:
    import foveate
    from foveate.hosts import reading, saving, whole

    compressed = saving.said(reading.config(path)) is not None
    processor = reading.processor(path)  # before the weights: it takes no time
    read = foveate.from_pretrained if compressed else reading.model
    model = read(path, dtype="auto")
    whole.check_asked(path, model, processor)
    return model, processor


@contextmanager
def asked(loaded: Loaded) -> Iterator[None]:
    """What a model cannot answer fails the command: prompts are ours, so its parts do not fit together."""
    try:
        yield
    except ValueError as error:
        raise Failed(f"{loaded.name} cannot answer: {' '.join(str(error).split())}") from error


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """What goes wrong inside fails the command, in one line."""
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        told = isinstance(error, OSError) and isinstance(
            error, ValueError
        )  # Unreadable: it names the file
        raise Failed(said if told else f"cannot load {name}: {said}") from error
