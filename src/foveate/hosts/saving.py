"""What a checkpoint says of its compressor, and how a model comes back with it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.utils import cached_file

from foveate.compressor import Chain, Compressor, Stages

VERSION = 1
PREFIX = "model.visual_compressor."


def describe(method: Compressor, positions: str, newlines: str = "rows") -> dict[str, Any]:
    """What config.visual_compression holds: enough to build the compressor again."""
    dropped = {} if newlines == "rows" else {"newlines": newlines}
    return {"version": VERSION, "positions": positions, **dropped, **_node(method)}


def _node(method: Compressor) -> dict[str, Any]:
    kind = type(method)
    node: dict[str, Any] = {"compressor": kind.__name__, "arguments": method.arguments()}
    if kind.__module__.startswith("foveate.methods."):
        node["method"] = kind.__module__.rsplit(".", 1)[1]
    if isinstance(method, Chain):
        node["links"] = links = [_node(link) for link in method.links]
        if len(slugs := {link.get("method") for link in links} - {None}) == 1:
            node["method"] = slugs.pop()  # all of one paper
    if isinstance(method, Stages):
        node["stages"] = [_node(stage) for stage in method.stages]
    return node


def settings(node: dict[str, Any]) -> dict[str, str]:
    """How `compress` was told to treat a compressor that `describe` described."""
    return {name: node[name] for name in ("positions", "newlines") if name in node}


def rebuild(node: dict[str, Any], known: dict[str, type[Compressor]]) -> Compressor:
    """The compressor that `describe` described. known: compressor classes by name.

    Raises ValueError for a newer version, for compressors that are not known, and for arguments that these
    do not have: another foveate saved them.
    """
    if node.get("version", VERSION) > VERSION:
        raise ValueError(
            f"visual_compression version {node['version']}: this foveate reads up to {VERSION}"
        )
    if "links" in node:
        return Chain(*(rebuild(link, known) for link in node["links"]))
    if "stages" in node:
        stages = [rebuild(stage, known) for stage in node["stages"]]
        return Stages(*zip(node["arguments"]["until"], stages, strict=True))
    if node["compressor"] not in known:
        raise ValueError(
            f"the checkpoint's compressor {node['compressor']!r} is not one of {', '.join(sorted(known))}: "
            "build it yourself and pass it as method="
        )
    make, given = known[node["compressor"]], node["arguments"]
    takes = inspect.signature(make).parameters
    if wrong := [name for name in given if name not in takes]:
        raise ValueError(
            f"the checkpoint's {node['compressor']} has {wrong[0]}={given[wrong[0]]!r}, this foveate's takes "
            f"{', '.join(takes)}: it was saved by another version, where it was another compressor"
        )
    return make(**given)


def from_pretrained(
    path: str, known: dict[str, type[Compressor]], method: Compressor | None, **kwargs: Any
):
    """The bare model, its compressor with weights, and how positions and newlines go; see `compress`."""
    if kwargs.get("output_loading_info"):
        raise ValueError(
            "output_loading_info is not supported: load the bare model with transformers"
        )
    model = AutoModelForImageTextToText.from_pretrained(path, **kwargs)
    node = getattr(model.config, "visual_compression", None)
    if node is None and method is None:
        raise ValueError(
            f"{path}: config.json has no visual_compression; load it with transformers"
        )
    method = method if method is not None else rebuild(node, known)
    _load(
        method,
        path,
        {k: v for k, v in kwargs.items() if k in ("revision", "cache_dir", "token", "subfolder")},
    )
    node = node or {}
    return model, method, node.get("positions", "original"), node.get("newlines", "rows")


def load(path: str, method: Compressor, **kwargs: Any) -> nn.Module:
    """The bare model, for training to begin with or go on: `method` need not be the one it was saved with.

    The method's weights are filled in where the checkpoint has them, and stay new where it has none of
    any compressor; a method without weights leaves the checkpoint's behind. Raises ValueError where it
    has others, by name or by shape.
    """
    model = AutoModelForImageTextToText.from_pretrained(path, **kwargs)
    if getattr(model.config, "visual_compression", None) is not None:
        _load(method, path, {}, fresh=True)
    return model


def has_weights(path: str) -> bool:
    """Whether a checkpoint holds weights of a compressor."""
    return any(key.startswith(PREFIX) for file in _files(path, {}) for key in _keys(file))


def _keys(file: Path) -> list[str]:
    with safe_open(file, "pt") as stored:
        return list(stored.keys())


def _load(method: nn.Module, path: str, hub: dict[str, Any], fresh: bool = False) -> None:
    """Fill in the compressor's weights from the checkpoint's safetensors files.

    fresh: they may also all be missing.
    """
    wanted = {name: tuple(value.shape) for name, value in method.state_dict().items()}
    if not wanted:
        return
    state = {}
    for file in _files(path, hub):
        with safe_open(file, "pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - no dict
                if key.startswith(PREFIX):
                    state[key.removeprefix(PREFIX)] = stored.get_tensor(key)
    if fresh and not state:
        return
    if missing := sorted(wanted.keys() - state.keys()):
        raise ValueError(f"{path} lacks weights of the compressor: {', '.join(missing[:3])} …")
    if other := sorted(state.keys() - wanted.keys()):
        raise ValueError(f"{path} has weights of another compressor: {', '.join(other[:3])} …")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise ValueError(
                f"{path} has {name} {tuple(state[name].shape)}, the compressor wants {shape}"
            )
    method.load_state_dict(state)


def _files(path: str, hub: dict[str, Any]) -> list[Path]:
    if Path(path).is_dir():
        return sorted((Path(path) / hub.get("subfolder", "")).glob("*.safetensors"))
    single = cached_file(
        path, "model.safetensors", _raise_exceptions_for_missing_entries=False, **hub
    )
    if single is not None:
        return [Path(single)]
    index = Path(cached_file(path, "model.safetensors.index.json", **hub))
    names = set(json.loads(index.read_text())["weight_map"].values())
    return [Path(cached_file(path, name, **hub)) for name in sorted(names)]
