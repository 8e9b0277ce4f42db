"""Files of weights, and modules that get their weights under names of another code."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Weights = dict[str, Tensor]
SHOWN = 4  # names in an error


def files(folder: Path) -> list[Path]:
    """The files of weights of a checkpoint. Raises ValueError if its index names others too."""
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        found = sorted(folder.glob(pattern))
        index = next(folder.glob(f"{pattern}.index.json"), None)
        if index is not None:
            named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if lost := [name for name in named if not (folder / name).is_file()]:
                raise ValueError(f"{index} names files that are not there: {_few(lost)}")
            found = [folder / name for name in named]
        if found:
            return found
    return []


def read(file: Path) -> Weights:
    """The weights of one file, left on disk where its format allows. Runs no code of the file.

    Raises ValueError for what holds no weights, or anything else besides.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        mapped = zipfile.is_zipfile(file)  # torch's older format cannot be
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, EOFError, RuntimeError, SafetensorError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{file} holds no weights that can be read: {why[0][:200]}") from error
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{file} holds no weights: want tensors by name")
    return found


def fill(
    module: nn.Module, weights: Mapping[str, Tensor], names: Mapping[str, str], source: Path
) -> None:
    """Give the tensors of a module that are on the meta device their weights, without a copy.

    names: how a name begins in `weights` → how it does in the module. Raises ValueError, in names of
    `weights`, for those that are missing, left over, or of another shape; the module is untouched then.
    """
    wanted = {n: tuple(t.shape) for n, t in module.state_dict().items() if t.is_meta}
    given = {_renamed(name, names.items()): name for name in weights}
    back = [(ours, theirs) for theirs, ours in names.items()]
    missing = [_renamed(name, back) for name in wanted if name not in given]
    over = [theirs for ours, theirs in given.items() if ours not in wanted]
    other = [
        f"{theirs} is {tuple(weights[theirs].shape)}, want {wanted[ours]}"
        for ours, theirs in given.items()
        if ours in wanted and tuple(weights[theirs].shape) != wanted[ours]
    ]
    wrong = [f"it lacks {_few(missing)}"] if missing else []
    wrong += [f"it has no place for {_few(over)}"] if over else []
    wrong += [_few(other)] if other else []
    if wrong:
        raise ValueError(f"{source}: {'; '.join(wrong)}")
    state = {ours: weights[theirs] for ours, theirs in given.items()}
    module.load_state_dict(state, strict=False, assign=True)


def _renamed(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    return next(
        (new + name.removeprefix(old) for old, new in prefixes if name.startswith(old)), name
    )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
