"""The one place that reads models, processors and configs from disk or the Hub.

No code of a checkpoint runs, and of its weights only safetensors are read: whatever asks for more is
refused, in one line, and nobody is asked on the terminal. So is what cannot be read, with the file's name,
and a model of which weights are missing or no numbers: transformers would fill in random ones and answer.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError, TemplateSyntaxError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    GenerationConfig,
)
from transformers.utils import cached_file

from foveate.hosts import files
from foveate.hosts.files import Unreadable, few

SAFE = {"trust_remote_code": False}
HUB = ("revision", "cache_dir", "token", "subfolder", "local_files_only", "force_download")
# What from_pretrained takes and foveate does not, with the values that change nothing.
REFUSED = {
    "trust_remote_code": (None, False),
    "use_safetensors": (None, True),
    "weights_only": (True,),
    "gguf_file": (None,),
    "ignore_mismatched_sizes": (False,),
    "output_loading_info": (False,),
}
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "tokenizer_config.json",
    "vocab.txt",
)
WHOLE_NUMBERS = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL")
PARTS = {
    "tokenizer_config.json": AutoTokenizer,
    "preprocessor_config.json": AutoImageProcessor,
    "video_preprocessor_config.json": AutoVideoProcessor,
}
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGE = 10**9  # a model of so many weights is not made to say which are missing
COMPRESSOR = "model.visual_compressor."
ONE_TURN = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]


def config(path: str | Path, **kwargs: Any) -> Any:
    """The config of a model. Raises Unreadable for what is none."""
    if (folder := _folder(path, kwargs)) is not None:
        files.check_model(folder)
    with _reading(path, "config.json"):
        return AutoConfig.from_pretrained(path, **SAFE, **kwargs)


def model(path: str | Path, kind: Any = AutoModelForImageTextToText, **kwargs: Any) -> nn.Module:
    """A whole model, whose weights are all there and all numbers.

    Raises Unreadable for what is none, ValueError for keywords that would read more than safetensors, run
    code, or fill in weights that are missing.
    """
    for name, same in REFUSED.items():
        if (value := kwargs.pop(name, same[0])) not in same:
            raise ValueError(
                f"{name}={value!r}: foveate runs no code of a checkpoint, reads safetensors alone and makes "
                "up no weights; load the model with transformers and compress it with foveate.compress"
            )
    own = {name: kwargs[name] for name in HUB if name in kwargs}
    said = kwargs.get("config") or config(path, **own)
    if (folder := _settled(path, kwargs)) is not None:
        stored = files.headers(files.weight_files(folder, kwargs.get("variant")))
        _check_size(path, kind, said, stored)
    with _reading(path, "the model"), _quiet():
        found, info = kind.from_pretrained(
            path,
            **SAFE,
            **kwargs,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    _check_whole(path, found, info)
    for name, value in found.state_dict().items():
        check_finite(path, name, value)
    return found


def language_model(path: str | Path, **kwargs: Any) -> nn.Module:
    """A causal language model. Raises as `model` does."""
    return model(path, AutoModelForCausalLM, **kwargs)


def tower(path: str | Path, **kwargs: Any) -> nn.Module:
    """A vision tower, without what stands beside it in its files. Raises as `model` does."""
    return model(path, AutoModel, **kwargs)


def processor(path: str | Path, **kwargs: Any) -> Any:
    """The processor of a model. Raises Unreadable where it is not there, or broken."""
    if (folder := _settled(path, kwargs)) is not None:
        _refuse_no_processor(folder)
    with _reading(path, "the processor"):
        _refuse_own_parts(path, kwargs)
        found = AutoProcessor.from_pretrained(path, **SAFE, **kwargs)
    if not hasattr(found, "tokenizer") or not hasattr(found, "image_processor"):
        raise Unreadable(
            f"{path}: its processor is a {type(found).__name__}: want one of images and text"
        )
    _check_template(path, found)
    return found


def tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model. Raises Unreadable where it is not there, or broken."""
    _settled(path, {})
    with _reading(path, "the tokenizer"):
        return AutoTokenizer.from_pretrained(path, **SAFE)


def image_processor(path: str | Path) -> Any:
    """The image processor of a model. Raises Unreadable where it is not there, or broken."""
    _settled(path, {})
    with _reading(path, "the image processor"):
        return AutoImageProcessor.from_pretrained(path, **SAFE)


def generation_config(path: str | Path) -> GenerationConfig:
    """How a model answers unless told. Raises Unreadable for what says nothing of it."""
    _settled(path, {})
    with _reading(path, "generation_config.json"):
        return GenerationConfig.from_pretrained(path)


def weights(path: str | Path, **kwargs: Any) -> list[Path]:
    """The safetensors files of a model, from the Hub if need be. Raises Unreadable where there are none."""
    hub = {name: kwargs[name] for name in HUB if name in kwargs}
    if (folder := _folder(path, kwargs)) is not None:
        return files.weight_files(folder, kwargs.get("variant"))
    with _reading(path, "the weights"):
        single = cached_file(
            path, files.WEIGHTS, _raise_exceptions_for_missing_entries=False, **hub
        )
        if single is not None:
            return [Path(single)]
        index = Path(cached_file(path, files.INDEX, **hub))
        names = set(files.read_object(index)["weight_map"].values())
        return [Path(cached_file(path, name, **hub)) for name in sorted(names)]


@contextmanager
def _reading(path: str | Path, what: str) -> Iterator[None]:
    """Whatever the libraries below raise of a broken file becomes one line that names what was read."""
    try:
        yield
    except (Unreadable, ImportError):
        raise
    except Exception as error:  # tokenizers raises Exception itself, of a config anything may come
        if "trust_remote_code" in str(error) or _names_code(path):
            raise Unreadable(
                f"{path} wants to run code of its own (auto_map in {what}): foveate runs none; "
                "want a model that transformers knows"
            ) from error
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        why = " ".join(" ".join(lines[:2]).split())[:300] or type(error).__name__
        raise Unreadable(f"{path}: {what} cannot be read: {why}") from error


def _folder(path: str | Path, kwargs: dict[str, Any]) -> Path | None:
    """Where a model lies; None for one of the Hub."""
    return Path(path) / (kwargs.get("subfolder") or "") if Path(path).is_dir() else None


def _settled(path: str | Path, kwargs: dict[str, Any]) -> Path | None:
    """The folder, whose settings can be read; None for a model of the Hub."""
    if (folder := _folder(path, kwargs)) is not None:
        files.check_settings(folder)
    return folder


def _check_size(path: str | Path, kind: Any, said: Any, stored: dict[str, Any]) -> None:
    """Raises Unreadable, before memory is taken, for a model larger than its weights or of other types."""
    if getattr(said, "quantization_config", None) is not None:
        return  # packed
    odd = [
        n for n, (t, _) in stored.items() if t in WHOLE_NUMBERS and n.endswith((".weight", ".bias"))
    ]
    if odd:
        raise Unreadable(f"{path}: {few(odd)} of the weights hold whole numbers: want floats")
    with _reading(path, "config.json"), torch.device("meta"):
        wanted = kind.from_config(said, **SAFE)
    have = sum(math.prod(shape) for _, shape in stored.values())
    want = sum(p.numel() for p in wanted.parameters())
    if want > max(2 * have, LARGE):
        raise Unreadable(
            f"{path}: the weights are not those of config.json: {len(stored):,} tensors of {have:,} numbers "
            f"in all, where its model has {len([*wanted.parameters()]):,} of {want:,}"
        )


def _check_whole(path: str | Path, found: nn.Module, info: dict[str, Any]) -> None:
    """Raises Unreadable for a model of which tensors are missing, or have other shapes in the files."""
    every = len({id(tensor) for tensor in found.state_dict(keep_vars=True).values()})
    if missing := sorted(info["missing_keys"]):
        raise Unreadable(
            f"{path}: the weights lack {len(missing):,} of the model's {every:,} tensors: {few(missing)}"
        )
    if other := sorted(info["mismatched_keys"]):
        said = [f"{name} is {tuple(has)}, want {tuple(want)}" for name, has, want in other]
        raise Unreadable(
            f"{path}: {len(other):,} of the model's {every:,} tensors have other shapes than config.json "
            f"says: {few(said)}"
        )
    if over := sorted(k for k in info["unexpected_keys"] if not k.startswith(COMPRESSOR)):
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


def _refuse_no_processor(folder: Path) -> None:
    """Raises Unreadable for a model that was saved without its processor, with what is missing."""
    images = any((folder / name).exists() for name in files.PROCESSOR[:3])
    words = any((folder / name).exists() for name in TOKENIZER)
    if not (images and words):
        lost = [
            n for n, there in ((files.PROCESSOR[0], images), (TOKENIZER[0], words)) if not there
        ]
        raise Unreadable(
            f"{folder} holds a model without its processor: {' and '.join(lost)} missing; save it beside the "
            f"model, processor.save_pretrained({str(folder)!r})"
        )


def _refuse_own_parts(path: str | Path, kwargs: dict[str, Any]) -> None:
    """Read, where code is named, each part by itself: AutoProcessor forgets on some ways not to ask."""
    for name, kind in PARTS.items():
        if "auto_map" in (_setting(path, name, kwargs) or {}):
            kind.from_pretrained(path, **SAFE, **kwargs)


def _setting(path: str | Path, name: str, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    hub = {key: kwargs[key] for key in HUB if key in kwargs}
    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **hub)
    return None if found is None else files.read_object(Path(found))


def _check_template(path: str | Path, found: Any) -> None:
    """Raises Unreadable for a chat template with a mistake, which would be seen with the first question."""
    if getattr(found, "chat_template", None) is None:
        return
    try:
        found.apply_chat_template(ONE_TURN, add_generation_prompt=True)
    except TemplateSyntaxError as error:
        raise Unreadable(f"{path}: chat template, line {error.lineno}: {error.message}") from error
    except (TemplateError, TypeError, ValueError) as error:
        raise Unreadable(f"{path}: the chat template cannot write a question: {error}") from error


def _names_code(path: str | Path) -> bool:
    """Whether any settings of a folder name code of its own."""
    there = [Path(path) / name for name in (files.CONFIG, *files.PROCESSOR)]
    return any("auto_map" in files.read_object(file) for file in there if file.is_file())


@contextmanager
def _quiet() -> Iterator[None]:
    """No table of what does not fit: it lists the compressor as unexpected, and the rest is said here."""
    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(_no_report)
    try:
        yield
    finally:
        log.removeFilter(_no_report)


def _no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
