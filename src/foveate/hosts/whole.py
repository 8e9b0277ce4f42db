"""Whether what was read is a whole model: every weight there, of its shape, and a number."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from foveate.chat import prompt
from foveate.hosts import files, traits
from foveate.hosts.files import Unreadable, few

COMPRESSOR = "model.visual_compressor."  # how the names of its weights begin
WHOLE_NUMBERS = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL")
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGE = 10**9  # a model of so many weights is not made to say which are missing


def check_size(path: str | Path, model: nn.Module, stored: dict[str, Any]) -> None:
    """Raises Unreadable, before memory is taken, for a model larger than its weights or of other types.

    model is on the meta device; stored as `files.headers` has it.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return  # packed
    weights = {n: kind for n, (kind, _) in stored.items() if n.endswith((".weight", ".bias"))}
    if odd := [name for name, kind in weights.items() if kind in WHOLE_NUMBERS]:
        raise Unreadable(f"{path}: {few(odd)} of the weights hold whole numbers: want floats")
    have = sum(math.prod(shape) for _, shape in stored.values())
    want = sum(p.numel() for p in model.parameters())
    if want > max(2 * have, LARGE):
        raise Unreadable(
            f"{path}: the weights are not those of config.json: {len(stored):,} tensors of {have:,} numbers "
            f"in all, where its model has {len([*model.parameters()]):,} of {want:,}"
        )


def check(path: str | Path, found: nn.Module, info: dict[str, Any], strict: bool) -> None:
    """Raises Unreadable for a model of which tensors are missing, or have other shapes in the files.

    strict: warn of those that no part of it takes, but for the compressor's.
    """
    state = found.state_dict(keep_vars=True)
    every = len({id(tensor) for tensor in state.values()})  # tied ones count once
    lost = {id(state.get(name)): name for name in sorted(info["missing_keys"])}
    if missing := list(lost.values()):
        raise Unreadable(
            f"{path}: the weights lack {len(missing):,} of the model's {every:,} tensors: {few(missing)}"
        )
    if other := sorted(info["mismatched_keys"]):
        said = [f"{name} is {tuple(has)}, want {tuple(want)}" for name, has, want in other]
        raise Unreadable(
            f"{path}: {len(other):,} of the model's {every:,} tensors have other shapes than config.json "
            f"says: {few(said)}"
        )
    over = sorted(k for k in info["unexpected_keys"] if not k.startswith(COMPRESSOR))
    if over and strict:
        warnings.warn(f"{path}: no part of the model takes {few(over)}", stacklevel=4)


def check_finite(path: str | Path, name: str, value: Tensor) -> None:
    """Raises Unreadable for a weight that is NaN or infinite somewhere; 0.1 s for a GB."""
    if value.is_meta or not value.numel() or value.dtype not in NUMBERS:
        return
    if not torch.stack(value.aminmax()).isfinite().all():
        wrong = int((~value.isfinite()).sum())
        raise Unreadable(
            f"{path}: {name} has {wrong:,} of {value.numel():,} numbers that are NaN or infinite"
        )


def check_written(path: str | Path, state: dict[str, Tensor]) -> None:
    """Raises Unreadable for a model most of whose matrices are zero: made, and never written."""
    matrices = {name: v for name, v in state.items() if v.dim() > 1 and v.numel() and not v.is_meta}
    blank = [name for name, value in matrices.items() if not value.any()]
    if len(blank) > len(matrices) / 2:
        raise Unreadable(
            f"{path}: {len(blank):,} of the model's {len(matrices):,} weight matrices hold zeros alone: "
            f"{few(blank)}"
        )


def check_asked(path: str | Path, model: nn.Module, processor: Any) -> None:
    """Raises Unreadable for a processor that cannot ask this model about a picture.

    A tokenizer without a padding token pads with the end token from now on.
    """
    tokens = processor.tokenizer
    if tokens.pad_token is None:
        if tokens.eos_token is None:
            raise Unreadable(
                f"{path}: its tokenizer has neither eos_token nor pad_token: tokenizer_config.json says them"
            )
        tokens.pad_token = tokens.eos_token  # masked wherever it stands
    with files.faults_of(path, "its processor and chat template", "cannot ask a question"):
        text = prompt(processor, "?")
        batch = processor(images=[Image.new("RGB", (64, 64))], text=[text], return_tensors="pt")
    wanted = traits.placeholder_id(traits.base_of(model))
    if not (batch["input_ids"] == wanted).any():
        raise Unreadable(
            f"{path}: its processor and chat template ask without the image token, id {wanted} by "
            "config.json: the template leaves the image out, or they are of different models"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No table of what does not fit: it lists the compressor as unexpected, and the rest is said here."""
    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(_no_report)
    try:
        yield
    finally:
        log.removeFilter(_no_report)


def _no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def fingerprint(model: nn.Module, compressor: nn.Module | None = None) -> str:
    """A short name for these very weights: shapes, types, and up to 1,024 values of every tensor.

    Those of an attached compressor do not count; compressor: one whose weights do, beside the bare model's.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(COMPRESSOR)}
    tensors = {**own, **({} if compressor is None else compressor.state_dict())}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.flatten()
        step = max(flat.numel() // 1024, 1)
        digest.update(flat[::step][:1024].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
