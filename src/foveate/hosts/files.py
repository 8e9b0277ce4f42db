"""The files of a saved model: settings in JSON, weights in safetensors. What is broken is named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
VIDEO = "video_preprocessor_config.json"
PROCESSOR = (
    "processor_config.json",
    "preprocessor_config.json",
    VIDEO,
    "tokenizer_config.json",
)
SETTINGS = (CONFIG, *PROCESSOR, "tokenizer.json", "generation_config.json", "chat_template.json")
TEXTS = ("chat_template.jinja",)
SHOWN = 4  # names in an error
LAYERS, NUMBER = 1_000, 2**63 - 1  # building more layers would take hours
DEEP = re.compile(r"(^|_)(num_.*layers|n_layers?|depth)$")
TOKEN, SWITCH = (
    re.compile(r"_token_id$"),
    re.compile(r"^(use_cache$|do_sample$|output_|return_dict)"),
)
PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")


class Unreadable(OSError, ValueError):  # noqa: N818
    """A checkpoint that cannot be read: the file, and what is wrong with it."""


OWN_CODE = (
    "{path} wants to run code of its own (auto_map, {what}): foveate runs none; want a model that "
    "transformers itself knows"
)


def few(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def short(value: Any) -> str:
    """A value of a broken file, so that it fits into a line."""
    said = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "huge"
    return said if len(said) <= 60 else f"{said[:60]} …"


@contextmanager
def faults_of(path: str | Path, what: str, cannot: str = "cannot be read") -> Iterator[None]:
    """Whatever the libraries below raise of a broken file becomes one line that names what was read."""
    try:
        yield
    except (Unreadable, ImportError):
        raise
    except Exception as error:  # tokenizers raises Exception itself, of a config anything may come
        if _wants_code(error, path):
            raise Unreadable(OWN_CODE.format(path=path, what=what)) from error
        here = "" if Path(path).exists() else "no such folder here, and on the Hub "
        raise Unreadable(f"{path}: {here}{what} {cannot}: {why(error)}") from error


def why(error: Exception) -> str:
    """What an error of a library says, in a line and without its classes."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, KeyError):
        return f"{error} is missing or unknown"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    said = " ".join(" ".join(lines[:2]).split()) or type(error).__name__
    said = said.partition(" Check your internet connection")[0]
    said = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", said)
    return re.sub(r"^Validation error for field '\w+': TypeError: ", "", said)[:200]


def names_code(path: str | Path) -> bool:
    """Whether any settings of a folder name code of its own."""
    there = [Path(path) / name for name in (CONFIG, *PROCESSOR)]
    return any("auto_map" in text(file) for file in there if file.is_file())


def _wants_code(error: Exception, path: str | Path) -> bool:
    said = str(error)
    return "trust_remote_code" in said or ("Unrecognized" in said and names_code(path))


def text(path: Path) -> str:
    """What a file says. Raises Unreadable for what is no text, OSError where there is no file."""
    if path.is_dir():
        raise Unreadable(f"{path} is a folder: want a file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path} is not text in UTF-8: {error.reason}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The settings in a JSON file. Raises Unreadable for what is none, OSError where there is no file."""
    try:
        found = json.loads(text(path))
    except RecursionError as error:
        raise Unreadable(f"{path} is nested too deep to be read") from error
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Unreadable(f"{path} holds a {type(found).__name__}: want an object of settings")
    return found


def check_config(path: Path) -> None:
    """Raises Unreadable for a config.json without a kind of model, or of one that no machine can build."""
    said = read_object(path)
    kind = said.get("model_type")
    if not isinstance(kind, str) or not kind:
        found = f"is {short(kind)}" if "model_type" in said else "is not there"
        raise Unreadable(f"{path}: model_type {found}: want the name of a kind of model")
    for key, value in _numbers(said):
        least, most = (0, LAYERS) if DEEP.search(key) else (-NUMBER, NUMBER)
        if not least <= value <= most and (most == LAYERS or isinstance(value, int)):
            raise Unreadable(f"{path}: {key} is {short(value)}: want {least:,} to {most:,}")


def check_generation(path: Path) -> None:
    """Raises Unreadable for a generation_config.json whose values are of other kinds than generate reads."""
    for key, value in read_object(path).items():
        several = value if isinstance(value, list) else [value]
        if TOKEN.search(key) and value is not None and not all(type(n) is int for n in several):
            raise Unreadable(
                f"{path}: {key} is {short(value)}: want the number of a token, or several"
            )
        if SWITCH.search(key) and not isinstance(value, bool | None):
            raise Unreadable(f"{path}: {key} is {short(value)}: want true or false")


def check_settings(folder: Path) -> None:
    """Raises Unreadable for the first file of settings in a folder that cannot be one."""
    for name in SETTINGS:
        if (folder / name).exists():
            read_object(folder / name)
    for name in TEXTS:
        if (folder / name).exists():
            text(folder / name)


def refuse_no_model(folder: Path) -> None:
    """Raises Unreadable for a folder that holds no saved model, with what it is instead."""
    if (folder / ADAPTER).exists():
        base = read_object(folder / ADAPTER).get("base_model_name_or_path")
        raise Unreadable(
            f"{folder} holds an adapter ({ADAPTER}) of {base or 'a model it does not name'}: merge it into "
            "that (peft's merge_and_unload) and save the whole, with its processor; or name the model itself"
        )
    if not (folder / CONFIG).exists():
        names = sorted(p.name for p in folder.iterdir())
        if gguf := [name for name in names if name.endswith(".gguf")]:
            raise Unreadable(f"{folder} holds {few(gguf)}: foveate reads safetensors, no GGUF")
        what = f"it holds {few(names)}" if names else "it is empty"
        raise Unreadable(f"{folder} has no {CONFIG}, so it is no saved model: {what}")


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a saved model.

    Raises Unreadable where there are none, where the index names others too, and for pickles by name.
    """
    single, index = (
        folder / (name.replace(".safetensors", f".{variant}.safetensors") if variant else name)
        for name in (WEIGHTS, INDEX)
    )
    if variant and not index.exists():
        index = folder / f"{INDEX.removesuffix('json')}{variant}.json"
    if single.is_file():
        return [single]
    if index.is_file():
        if not isinstance(read_object(index).get("metadata"), dict):  # transformers reads it
            raise Unreadable(f"{index} has no metadata: want an object, which may be empty")
        if odd := [p.name for p in indexed(index) if p.suffix != ".safetensors"]:
            raise Unreadable(f"{index} names {few(odd)}: foveate reads safetensors alone")
        return indexed(index)
    if pickled := sorted({p.name for pattern in PICKLED for p in folder.glob(pattern)}):
        raise Unreadable(
            f"{folder} holds its weights in {few(pickled)} alone: foveate reads safetensors and no pickles; "
            "load it with transformers and save_pretrained it again"
        )
    if single.is_dir():
        raise Unreadable(f"{single} is a folder: want a file")
    raise Unreadable(f"{single} is not there: the weights are missing")


def indexed(index: Path) -> list[Path]:
    """The files that an index names. Raises Unreadable where it names none, or one that is not there."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise Unreadable(f"{index} has no weight_map: want the file of every weight by its name")
    names = sorted(set(places.values()))
    if lost := [name for name in names if not (index.parent / name).is_file()]:
        raise Unreadable(f"{index} names files that are not there: {few(lost)}")
    return [index.parent / name for name in names]


def headers(files: Sequence[Path]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor by name, none of them read. Raises Unreadable for a broken file."""
    found = {}
    for file in files:
        with opened(file) as stored:
            for name in stored.keys():  # noqa: SIM118 - no dict
                part = stored.get_slice(name)
                found[name] = (part.get_dtype(), tuple(part.get_shape()))
    return found


def opened(file: Path) -> Any:
    """A safetensors file, open. Raises Unreadable for what is none."""
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError, ValueError) as error:
        size = f"{file.stat().st_size:,} bytes" if file.is_file() else "no file"
        why = " ".join(str(error).split())[:200]
        raise Unreadable(f"{file} is no whole safetensors file ({size}): {why}") from error


def _numbers(said: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    """Every number in these settings, with the name it stands under."""
    left = [*said.items()]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, one) for one in value]
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield key, value
