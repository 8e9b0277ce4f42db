"""The model a person named: one that comes with foveate, a directory, or a Hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.cli import paths, said
from foveate.cli.wrong import Failed, Wrong, nearest, unknown

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
EMBEDDED = "embedded"


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
    from foveate.embedded import MODELS

    target, path = place_to_run(device), place(name)
    try:
        model, processor = _read(path)
        model = model.to(target).eval()
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:
        raise Failed(f"cannot load {name}: {_first_line(error)}") from error
    as_typed = name in MODELS or not Path(name).is_dir()
    return Loaded(model, processor, name if as_typed else said.visible(Path(name).resolve().name))


def place_to_run(name: str) -> Any:
    """The device of this name. Raises Wrong for what is none, Failed for one that is not here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, UnicodeError):
        device = None
    if device is None or device.type == "meta":
        raise Wrong(f"--device {name!r}: want auto, cpu, cuda, or another that torch knows")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise Failed(f"--device {name}: {_first_line(error)}") from error
    return device


def skeleton(name: str = EMBEDDED) -> Any:
    """The model without its weights, from its config alone. Raises Wrong or Failed as `load` does."""
    from transformers import AutoConfig

    from foveate.bench import CONFIGS
    from foveate.embedded import MODELS, carried
    from foveate.hosts import cost

    if name in CONFIGS:
        return cost.skeleton(CONFIGS[name].config())
    if name not in MODELS and "/" not in name and not Path(name).exists():
        raise unknown("model", name, [*carried(), *CONFIGS])
    try:
        return cost.skeleton(AutoConfig.from_pretrained(place(name)))
    except (OSError, ValueError, ImportError) as error:
        raise Failed(f"cannot read the config of {name}: {_first_line(error)}") from error


def place(name: str) -> str:
    """Where to load a model from. Raises Wrong for what is neither a model's directory nor a Hub id."""
    from foveate.embedded import MODELS, carried

    path, there = MODELS.get(name, Path(name)), carried()
    if name in MODELS and name not in there:
        raise Failed(f"this copy of foveate carries no model {name!r}: name another")
    if path.is_dir():
        if not (path / "config.json").exists():
            raise Wrong(f"model {name}: this directory has no config.json, so it is no saved model")
        return str(paths.plain(path))
    if path.exists() or not HUB_ID.fullmatch(name) or name.startswith((".", "/", "~")):
        names = ", ".join(map(repr, there))
        raise Wrong(
            f"model {name}: {nearest(name, there)}want {names}, a directory with a saved model, or "
            "owner/name"
        )
    return name


def _read(path: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    import foveate

    config = AutoConfig.from_pretrained(path)
    if getattr(config, "visual_compression", None):
        model = foveate.from_pretrained(path, dtype="auto")
    else:
        model = AutoModelForImageTextToText.from_pretrained(path, dtype="auto")
    return model, AutoProcessor.from_pretrained(path)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
