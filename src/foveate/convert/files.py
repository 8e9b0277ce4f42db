"""Files of a checkpoint: weights by name, and settings. No code of a file is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foveate.hosts.files import few, indexed

Weights = dict[str, Tensor]
UNMERGED = ("adapter_model.", "non_lora_trainables.")  # what LLaVA's code saves of a LoRA


def refuse_unmerged(source: Path) -> None:
    """Raises ValueError for a LoRA apart from its model, a file of it or the folder of both."""
    names = [p.name for p in source.iterdir()] if source.is_dir() else [source.name]
    if found := sorted(name for name in names if name.startswith(UNMERGED)):
        raise ValueError(
            f"{source} is a LoRA apart from its model, by {few(found)}: merge the LoRA first"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files of weights of a checkpoint. Raises ValueError if its index names others too."""
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        found = sorted(folder.glob(pattern))
        index = next(folder.glob(f"{pattern}.index.json"), None)
        if index is not None:
            found = indexed(index)
        if found:
            return found
    return []


def read(*files: Path) -> Weights:
    """The weights of these files, left on disk where their format allows.

    Raises ValueError for a file that holds no weights, or anything else besides, and for a name in two.
    """
    weights: Weights = {}
    home: dict[str, Path] = {}
    for file in files:
        found = _read(file)
        if twice := [name for name in found if name in home]:
            raise ValueError(
                f"{file} has {few(twice)}, and so has {home[twice[0]].name}: want every name once"
            )
        weights |= found
        home |= dict.fromkeys(found, file)
    return weights


def _read(file: Path) -> Weights:
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
