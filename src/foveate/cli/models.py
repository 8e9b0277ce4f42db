"""The model a person named: one that comes with foveate, a directory, or a Hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from foveate.cli import paths, said
from foveate.cli.wrong import Failed, Wrong, unknown
from foveate.registry.written import nearest

if TYPE_CHECKING:
    from foveate.evaluate.plans import Loaded

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


def load(
    name: str = EMBEDDED,
    device: str = "auto",
    protocol: str | None = None,
    trust: Sequence[str] = (),
    switches: Mapping[str, str] = MappingProxyType({}),
    headless: bool = False,
) -> Loaded:
    """The model and its processor; one that was saved compressed comes back compressed.

    protocol: whose it is asked with; None for its own. trust: compressors of one's own that it may name.
    switches: what `compress` is told of every method, that of a model that was saved with one too.
    headless: without its decoder layers.
    Raises Wrong for names that cannot be one and for protocols that do not fit, Failed if it cannot be
    read.
    """
    from foveate.embedded import MODELS
    from foveate.evaluate.plans import Loaded
    from foveate.registry.loading import read

    target, path = place_to_run(device), place(name)
    with _loading(name):
        model, processor = read(path, trust, headless=headless)
        _switch(model, switches)
        model = model.to(target).eval()
    folder = Path(name).expanduser()
    typed = name in MODELS or not folder.is_dir()
    called = name if typed else said.visible(folder.resolve().name)
    return Loaded(model, _asking(processor, protocol), called, protocol, switches)


def _switch(model: Any, switches: Mapping[str, str]) -> None:
    from foveate.hosts import attach, saving

    if switches and attach.is_compressed(model):
        how = saving.settings(model.config.visual_compression)
        attach.compress(model, model.model.visual_compressor, **{**how, **switches})


def check_protocol(name: str | None) -> None:
    """Raise Wrong with the nearest one if there is no such protocol. None is a checkpoint's own."""
    if name is None:
        return
    from foveate.hosts.protocol import PROTOCOLS

    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)


def switches(**typed: str | None) -> dict[str, str]:
    """What is said of dropped and attention; None leaves it as it was saved, else as usual.

    Raises Wrong with the nearest word for others.
    """
    from foveate.hosts.switches import ALLOWED

    told = {name: word for name, word in typed.items() if word is not None}
    for name, word in told.items():
        if word not in ALLOWED[name]:
            raise unknown(f"--{name}", word, ALLOWED[name])
    return told


def _asking(processor: Any, protocol: str | None) -> Any:
    import foveate

    try:
        return processor if protocol is None else foveate.protocol(processor, protocol)
    except ValueError as error:
        raise Wrong(f"--protocol {protocol}: {error}") from error


def place_to_run(name: str) -> Any:
    """The device of this name. Raises Wrong for what is none, Failed for one that is not here."""
    import torch

    if name == "auto":
        own = os.environ.get("LOCAL_RANK", "0")  # of several processes on one machine
        name = f"cuda:{own}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, UnicodeError):
        device = None
    if device is None or device.type == "meta":
        raise Wrong(f"--device {name!r}: want auto, cpu, cuda, or another that torch knows")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise Failed(f"--device {name}: {said.cut(_first_line(error))}") from error
    return device


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
        return str(paths.plain(path.resolve()))
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


@contextmanager
def asked(loaded: Loaded) -> Iterator[None]:
    """What a model cannot answer fails the command: prompts are ours, so its parts do not fit together."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raise Failed(f"{loaded.name} cannot answer: {' '.join(str(error).split())}") from error


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """What goes wrong inside fails the command, in one line."""
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:
        said = _first_line(error)
        told = isinstance(error, OSError) and isinstance(error, ValueError)  # it names the file
        raise Failed(said if told else f"cannot load {name}: {said}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
