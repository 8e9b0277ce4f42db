"""The one place that reads models, processors and configs from disk or the Hub.

No code of a checkpoint runs, and of its weights only safetensors are read: whatever asks for more is
refused, in one line, and nobody is asked on the terminal. So is what cannot be read, with the file's name,
and a model of which weights are missing or no numbers: transformers would fill in random ones and answer.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    GenerationConfig,
    __version__,
)
from transformers.utils import cached_file

from foveate.hosts import files, whole
from foveate.hosts.files import Unreadable

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
IF_THERE = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
GENERATION = "generation_config.json"
KINDS = {
    AutoModelForImageTextToText: "model of images and text",
    AutoModelForCausalLM: "language model",
    AutoModel: "model that transformers knows",
}


def config(path: str | Path, **kwargs: Any) -> Any:
    """The config of a model. Raises Unreadable for what is none."""
    if (folder := _folder(path, kwargs)) is not None:
        files.refuse_no_model(folder)
        files.check_config(folder / files.CONFIG)
        kind = files.read_object(folder / files.CONFIG)["model_type"]
        if kind not in CONFIG_MAPPING and not files.names_code(path):
            raise Unreadable(
                f"{folder / files.CONFIG}: model_type {kind!r} is unknown to transformers {__version__}"
            )
    with files.faults_of(path, "config.json"):
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
    said = kwargs.get("config") or config(path, **on_hub(kwargs))
    check_kind(path, said, kind)
    if (folder := _settled(path, kwargs)) is not None:
        if (folder / GENERATION).exists():
            generation_config(folder)  # what is wrong there is not the model's
        stored = files.headers(files.weight_files(folder, kwargs.get("variant")))
        with files.faults_of(path, files.CONFIG), torch.device("meta"):
            whole.check_size(path, untrained(said, kind), stored)
    with files.faults_of(path, "the model"), whole.quiet():
        found, info = kind.from_pretrained(
            path,
            **SAFE,
            **kwargs,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    told = (
        said.get_text_config().num_hidden_layers
    )  # none, as `headless` has it: more is in the files
    whole.check(path, found, info, strict=kind is AutoModelForImageTextToText and told > 0)
    state = found.state_dict()
    for name, value in state.items():
        whole.check_finite(path, name, value)
    whole.check_written(path, state)
    return found


def headless(path: str | Path, said: Any) -> Any:
    """The config of the same model without its decoder layers, whose weights are then not read.

    Raises Unreadable as `check_kind` does.
    """
    check_kind(path, said)
    said = copy.deepcopy(said)
    said.get_text_config().num_hidden_layers = 0
    return said


def untrained(said: Any, kind: Any = AutoModelForImageTextToText, **kwargs: Any) -> nn.Module:
    """The model of a config, with random weights."""
    return kind.from_config(said, **SAFE, **kwargs)


def check_kind(path: str | Path, said: Any, kind: Any = AutoModelForImageTextToText) -> None:
    """Raises Unreadable for the config of another kind of model than is wanted."""
    if type(said) not in kind._model_mapping:
        if files.names_code(path):
            raise Unreadable(files.OWN_CODE.format(path=path, what="config.json"))
        raise Unreadable(f"{path}: a {said.model_type} is no {KINDS[kind]}")


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
    try:
        with files.faults_of(path, "the processor"):
            _refuse_own_parts(path, kwargs)
            found = AutoProcessor.from_pretrained(path, **SAFE, **kwargs)
    except Unreadable:
        tokenizer(path, **kwargs)  # says so if the fault is its own
        raise
    if not hasattr(found, "tokenizer") or not hasattr(found, "image_processor"):
        raise Unreadable(
            f"{path}: its processor is a {type(found).__name__}: want one of images and text"
        )
    return found


def tokenizer(path: str | Path, **kwargs: Any) -> Any:
    """The tokenizer of a model. Raises Unreadable where it is not there, or broken."""
    _settled(path, kwargs)
    with files.faults_of(path, "the tokenizer"):
        return AutoTokenizer.from_pretrained(path, **SAFE, **kwargs)


def image_processor(path: str | Path) -> Any:
    """The image processor of a model. Raises Unreadable where it is not there, or broken."""
    _settled(path, {})
    with files.faults_of(path, "the image processor"):
        return AutoImageProcessor.from_pretrained(path, **SAFE)


def generation_config(path: str | Path) -> GenerationConfig:
    """How a model answers unless told. Raises Unreadable for what says nothing of it."""
    if (folder := _settled(path, {})) is not None and (folder / GENERATION).exists():
        files.check_generation(folder / GENERATION)
    with files.faults_of(path, GENERATION):
        return GenerationConfig.from_pretrained(path)


def weights(path: str | Path, **kwargs: Any) -> list[Path]:
    """The safetensors files of a model, from the Hub if need be. Raises Unreadable where there are none."""
    hub = on_hub(kwargs)
    if (folder := _folder(path, kwargs)) is not None:
        return files.weight_files(folder, kwargs.get("variant"))
    with files.faults_of(path, "the weights"):
        single = cached_file(
            path, files.WEIGHTS, _raise_exceptions_for_missing_entries=False, **hub
        )
        if single is not None:
            return [Path(single)]
        index = Path(cached_file(path, files.INDEX, **hub))
        names = set(files.read_object(index)["weight_map"].values())
        return [Path(cached_file(path, name, **hub)) for name in sorted(names)]


def on_hub(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of these keywords, those that say where on the Hub something lies."""
    return {name: kwargs[name] for name in HUB if name in kwargs}


def _folder(path: str | Path, kwargs: dict[str, Any]) -> Path | None:
    """Where a model lies; None for one of the Hub. Raises Unreadable for what can be neither."""
    if Path(path).is_dir():
        return Path(path) / (kwargs.get("subfolder") or "")
    if str(path).startswith(("/", ".", "~")):
        raise Unreadable(f"{path}: no such folder")
    return None


def _settled(path: str | Path, kwargs: dict[str, Any]) -> Path | None:
    """The folder, whose settings can be read; None for a model of the Hub."""
    if (folder := _folder(path, kwargs)) is not None:
        files.check_settings(folder)
    return folder


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
    """Read, where code is named, each part by itself: not every way of AutoProcessor hands on not to ask."""
    hub = on_hub(kwargs)
    found = [cached_file(path, name, **hub, **IF_THERE) for name in files.PROCESSOR]
    named = [Path(file).name for file in found if file and "auto_map" in files.text(Path(file))]
    if named:
        parts = [AutoTokenizer, AutoImageProcessor]
        parts += [AutoVideoProcessor] if files.VIDEO in named else []
        for part in parts:
            part.from_pretrained(path, **SAFE, **kwargs)
