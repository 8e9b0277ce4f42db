"""What a checkpoint says of its compressor, and how a model comes back with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.composed import Chain, Stages
from foveate.core.compressor import Compressor
from foveate.hosts import reading, whole
from foveate.hosts.files import Unreadable, few, headers, opened, short
from foveate.hosts.switches import ALLOWED, Switches

VERSION = 1
DEEPEST = 8  # compressors in compressors
KINDS = {dict: "an object", list: "a list", int: "a whole number", str: "a name"}


def describe(
    method: Compressor, switches: Switches, ladder: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What config.visual_compression holds: enough to build the compressor again."""
    climbs = {} if ladder is None else {"ladder": {**ladder}}
    return {"version": VERSION, **switches.told, **climbs, **_node(method)}


def _node(method: Compressor) -> dict[str, Any]:
    kind = type(method)
    node: dict[str, Any] = {"compressor": kind.__name__, "arguments": method.arguments()}
    if kind.__module__.startswith("foveate.methods."):
        node["method"] = kind.__module__.rsplit(".", 1)[1]
    elif not kind.__module__.startswith("foveate."):
        node["class"] = f"{kind.__module__}:{kind.__qualname__}"  # for people: nothing imports it
    if isinstance(method, Chain):
        node["links"] = links = [_node(link) for link in method.links]
        if len(slugs := {link.get("method") for link in links} - {None}) == 1:
            node["method"] = slugs.pop()  # all of one paper
    if isinstance(method, Stages):
        node["stages"] = [_node(stage) for stage in method.stages]
    return node


def settings(node: dict[str, Any]) -> dict[str, Any]:
    """How `attach.compress` was told to treat a compressor that `describe` described."""
    return {name: node[name] for name in (*ALLOWED, "ladder") if name in node}


def rebuild(node: Any, known: dict[str, Any], where: str = "visual_compression") -> Compressor:
    """The compressor that `describe` described. known: compressor classes by name.

    Raises ValueError, with the key, for a newer version, compressors that are not known, and whatever
    `describe` never writes.
    """
    want(node, dict, where)
    version = want(node.get("version", VERSION), int, f"{where}.version")
    if not 1 <= version <= VERSION:
        raise Unreadable(f"{where}.version is {short(version)}: this foveate reads up to {VERSION}")
    for key, allowed in ALLOWED.items():
        if (found := node.get(key, allowed[0])) not in allowed:
            raise Unreadable(f"{where}.{key} is {short(found)}: want {' or '.join(allowed)}")
    if where.count("[") > DEEPEST:
        raise Unreadable(f"{where} is nested too deep")
    if "links" in node:
        return _made(where, Chain, *_inner(node, "links", known, where))
    given = want(node.get("arguments"), dict, f"{where}.arguments")
    if "stages" in node:
        until = want(given.get("until"), list, f"{where}.arguments.until")
        stages = _inner(node, "stages", known, where)
        if len(until) != len(stages):
            raise Unreadable(f"{where} has {len(stages)} stages and {len(until)} ends of them")
        return _made(where, Stages, *zip(until, stages, strict=True))
    name = want(node.get("compressor"), str, f"{where}.compressor")
    if name not in known:
        own = short(node.get("class", f"package.module:{name}"))
        raise Unreadable(
            f"{where}: the checkpoint's compressor {short(name)} is not one of {', '.join(sorted(known))}; "
            f"no code that a checkpoint names is run: if it is yours, from_pretrained(path, trust=[{own}]), "
            f"--method {own} on the command line, or method= with one that you made"
        )
    make, takes = known[name], inspect.signature(known[name]).parameters
    if wrong := [argument for argument in given if argument not in takes]:
        raise Unreadable(
            f"{where}: the checkpoint's {name} has {wrong[0]:.40}={short(given[wrong[0]])}, this "
            f"foveate's takes {', '.join(takes)}: it was saved by another version, where it was another "
            "compressor"
        )
    return _made(f"{where}.arguments", make, **given)


def _inner(node: dict[str, Any], key: str, known: dict[str, Any], where: str) -> list[Compressor]:
    """The compressors that this one is made of."""
    some = want(node[key], list, f"{where}.{key}")
    return [rebuild(one, known, f"{where}.{key}[{n}]") for n, one in enumerate(some)]


def want(value: Any, kind: type, where: str) -> Any:
    """The value. Raises Unreadable unless it is of this kind."""
    if not isinstance(value, kind) or isinstance(value, bool):
        found = "not there" if value is None else short(value)
        raise Unreadable(f"{where} is {found}: want {KINDS[kind]}")
    return value


def _made(where: str, make: Any, *args: Any, **given: Any) -> Compressor:
    """A compressor. Raises Unreadable for arguments that it does not take."""
    there = inspect.signature(make).parameters
    if wrong := [name for name in given if name not in there]:
        raise Unreadable(
            f"{where}: {make.__name__} has no argument {short(wrong[0])}: there are {', '.join(there)}"
        )
    try:
        return make(*args, **given)
    except (TypeError, ValueError, KeyError, ArithmeticError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise Unreadable(f"{where} cannot be: {why[:200]}") from error


def from_pretrained(
    path: str, known: dict[str, Any], method: Compressor | None, **kwargs: Any
) -> tuple[nn.Module, Compressor, dict[str, Any]]:
    """The bare model, its compressor with weights, and how the model treats that; see `compress`."""
    where = f"{path}/config.json: visual_compression"
    node = said(reading.config(path, **reading.on_hub(kwargs)))
    if node is None and method is None:
        raise ValueError(
            f"{path}: config.json has no visual_compression; load it with transformers"
        )
    if method is None:
        with torch.device("meta"):  # nothing is built larger than its weights are
            _state(rebuild(node, known, where), path, kwargs)
        method = rebuild(node, known, where)
    model = reading.model(path, **kwargs)
    _load(method, path, kwargs)
    return model, method, settings(node or {})


def said(config: Any) -> Any:
    """What a config says of a compressor; None where it says nothing."""
    return getattr(config, "visual_compression", None)


def load(path: str, method: Compressor, **kwargs: Any) -> nn.Module:
    """The bare model, for training to begin with or go on: `method` need not be the one it was saved with.

    The method's weights are filled in where the checkpoint has them, and stay new where it has none of
    any compressor; a method without weights leaves the checkpoint's behind. Raises ValueError where it
    has others, by name or by shape.
    """
    model = reading.model(path, **kwargs)
    if said(model.config) is not None:
        _load(method, path, {}, fresh=True)
    return model


def has_weights(path: str) -> bool:
    """Whether a checkpoint holds weights of a compressor."""
    return any(key.startswith(whole.COMPRESSOR) for key in headers(reading.weights(path)))


def _load(method: nn.Module, path: str, kwargs: dict[str, Any], fresh: bool = False) -> None:
    """Fill in the compressor's weights from the checkpoint's safetensors files.

    fresh: they may also all be missing.
    """
    if state := _state(method, path, kwargs, fresh):
        method.load_state_dict(state)


def _state(
    method: nn.Module, path: str, kwargs: dict[str, Any], fresh: bool = False
) -> dict[str, Tensor]:
    """The compressor's weights in a checkpoint. Raises ValueError where it has others, or none."""
    wanted = {name: tuple(value.shape) for name, value in method.state_dict().items()}
    if not wanted:
        return {}
    prefix, state = whole.COMPRESSOR, {}
    for file in reading.weights(path, **kwargs):
        with opened(file) as stored:
            for key in stored.keys():  # noqa: SIM118 - no dict
                if key.startswith(prefix):
                    state[key.removeprefix(prefix)] = stored.get_tensor(key)
    if fresh and not state:
        return {}
    if missing := sorted(wanted.keys() - state.keys()):
        raise Unreadable(
            f"{path} lacks weights of the compressor, {len(missing)} of {len(wanted)}: {few(missing)}"
        )
    if other := sorted(state.keys() - wanted.keys()):
        raise Unreadable(f"{path} has weights of another compressor: {few(other)}")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise Unreadable(
                f"{path} has {name} {tuple(state[name].shape)}, the compressor wants {shape}"
            )
        whole.check_finite(path, f"{prefix}{name}", state[name])
    return state
