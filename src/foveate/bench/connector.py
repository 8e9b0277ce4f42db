"""Pieces of a prefill alone: the tower, and what stands between it and the language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from foveate.hosts import cost, traits


def tower(model: nn.Module, call: Callable[[], Any]) -> Callable[[], Any]:
    """A call that runs the vision tower alone, on what `call`, a prefill, shows it."""
    return again(traits.towers_of(traits.base_of(model)), call)


def connector(model: nn.Module, call: Callable[[], Any]) -> Callable[[], Any]:
    """A call that runs the connector alone, on what a prefill gives it.

    That is the model's own, and with it or in its place the compressors that have weights and stand
    before the language model.
    """
    base = traits.base_of(model)
    method = getattr(base, "visual_compressor", None)
    parts = [] if method is None else [p for p in method.at(1.0).parts() if cost.connects(p)]
    own = [m for name, m in base.named_modules() if cost.CONNECTORS & set(name.split("."))]
    return again([*parts, *own], call)


def again(modules: Iterable[nn.Module], call: Callable[[], Any]) -> Callable[[], Any]:
    """A call that runs these modules as `call` does; of those inside one another, the outermost."""
    calls: list[tuple[nn.Module, tuple, dict[str, Any]]] = []
    inside: list[nn.Module] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not inside:
            calls.append((module, args, kwargs))
        inside.append(module)

    def leave(*_: Any) -> None:
        inside.pop()

    handles = []
    for module in dict.fromkeys(modules):
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()

    def run() -> None:
        for module, args, kwargs in calls:
            module(*args, **kwargs)

    return run
