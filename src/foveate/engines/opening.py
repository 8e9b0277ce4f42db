"""The model that another program's arguments name, with its compressor attached."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from foveate.core.spec import Spec
from foveate.embedded import MODELS, carried
from foveate.evaluate.plans import BARE, Loaded, Plan, own, remarks
from foveate.hosts import attach
from foveate.hosts.protocol import protocol
from foveate.hosts.switches import ALLOWED
from foveate.registry import setting
from foveate.registry.loading import read
from foveate.registry.methods import factory, parameters

SET = "set."  # begins the name of a method's own argument
NAMES = ("method", "keep", *ALLOWED, "protocol", "dtype")


def opened(
    pretrained: str, device: torch.device, given: Mapping[str, Any]
) -> tuple[Any, Any, list[str]]:
    """A model ready to answer, its processor, and what to know of them.

    given: those of NAMES and set.NAME. Without a method a model is as it was saved, with the arguments that
    are given. Raises ValueError and TypeError, with the nearest name, for what there is not.
    """
    told = arguments(given)
    own_class = [told["method"]] if ":" in told.get("method", "") else []
    model, processor = read(place(pretrained), own_class, _dtype(told.get("dtype", "auto")))
    name = told.get("protocol")
    processor = processor if name is None else protocol(processor, name)
    switches = {one: told[one] for one in ALLOWED if one in told}
    loaded = Loaded(model.to(device).eval(), processor, pretrained, name, switches)
    saved = own(loaded)
    plan = planned(loaded, saved, told)
    if plan.compressor is None:
        attach.restore(model)
    else:
        attach.compress(model, plan.compressor, **plan.how)
    return model, processor, remarks(pretrained, [plan], saved)


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given or a file says, that of the method under "set". Raises ValueError for other names."""
    known = [*NAMES, f"{SET}NAME"]
    told = {name: value for name, value in given.items() if value is not None}
    for name in told:
        if name not in NAMES and not name.startswith(SET):
            raise ValueError(_unknown("argument", name, ["pretrained", *known]))
    own = {n.removeprefix(SET): _value(v) for n, v in told.items() if n.startswith(SET)}
    beside = [f"{n}={v}" for n, v in told.items() if n == "keep" or n.startswith(SET)]
    told = {n: v for n, v in told.items() if n in NAMES}
    if (spec := setting.named(told.get("method", ""), beside)) is not None:
        told = {**spec.switches, **told, "method": spec.slug, "keep": spec.keep}
        own = spec.arguments
    return {**told, "set": own}


def planned(loaded: Loaded, saved: Plan | None, told: Mapping[str, Any]) -> Plan:
    """The run that is asked for, its compressor made for the model.

    saved: the model as it was saved with a compressor, None without one.
    """
    method, keep, changes = told.get("method"), told.get("keep"), told["set"]
    if method == BARE or (method is None and saved is None):
        if idle := [*loaded.switches, *changes, *(["keep"] if keep is not None else [])]:
            raise ValueError(
                f"{', '.join(idle)}: of a method, and none acts: say method=…, such as fastv"
            )
        return Plan(BARE, 1.0)
    make = factory(saved.method if method is None else method)
    for name in changes:
        if name not in parameters(make):
            raise ValueError(
                _unknown(f"argument of {method or saved.method}", name, parameters(make))
            )
    if method is not None:
        spec = Spec(method, make, changes, keep)
        made = spec.build(None, loaded.model)
        return Plan(str(spec), keep, spec, made, loaded.how(made))
    changes = changes if keep is None else {**changes, "keep": keep}
    made = saved.compressor.but(**changes) if changes else saved.compressor
    return saved._replace(compressor=made, how={**saved.how, **loaded.switches})


def place(name: str) -> str:
    """Where a model lies: one that comes with foveate, a folder, or a Hub id."""
    path = Path(name).expanduser()
    if name in carried():
        return str(MODELS[name])
    if not path.exists() and name.count("/") != 1:
        raise ValueError(_unknown("model", name, [*carried(), "a folder", "owner/name"]))
    return str(path) if path.exists() else name


def _value(text: Any) -> Any:
    """A list that came as text; whatever else as it is."""
    try:
        return ast.literal_eval(text) if isinstance(text, str) and text[:1] in "[({" else text
    except (ValueError, SyntaxError):
        return text


def _dtype(name: str) -> Any:
    names = ("auto", "float32", "bfloat16", "float16")
    if name not in names:
        raise ValueError(_unknown("dtype", name, names))
    return name if name == "auto" else getattr(torch, name)


def _unknown(what: str, name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), names := list(names), n=1, cutoff=0.5)
    nearest = f"nearest: {near[0]}; " if near else ""
    return f"unknown {what} {name!r}: {nearest}there are {', '.join(names)}"
