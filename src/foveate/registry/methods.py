"""Methods by name: foveate's own, those that other packages bring, and a class of one's own."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import foveate.methods
from foveate.core.compressor import Compressor

GROUP = "foveate.methods"  # of entry points
Factory = Callable[..., Compressor]


def names() -> list[str]:
    """Every name there is: those of METHODS, then those that installed packages bring."""
    return [*foveate.methods.METHODS, *_brought()]


def factory(name: str) -> Factory:
    """What makes the method of a name: an entry of METHODS, an entry point, or package.module:Class.

    Packages bring methods by entry points of the group "foveate.methods"; a name of METHODS stays
    foveate's. package.module:Class is imported, so it runs that module's code. Raises ValueError for a
    name that is none, with the nearest, and for a module or class that is not there or is no method.
    """
    if name in foveate.methods.METHODS:
        return foveate.methods.METHODS[name]
    if ":" in name:
        return _imported(name)
    if name in (brought := _brought()):
        return _imported(brought[name].value)
    slug, _, written = name.partition("(")
    near = difflib.get_close_matches(slug.strip().lower().replace("-", "_"), names(), n=1)
    aside = f"; arguments stand beside the name: compress(model, {near[0] if near else slug!r}, …)"
    others = f"there are {', '.join(names())}, and package.module:Class"
    if near:
        others = f"nearest: {near[0]}; `foveate methods` lists them all"
    raise ValueError(f"no method {name!r}: {others}{aside if written else ''}")


def known(*more: str) -> dict[str, type[Compressor]]:
    """The compressor classes that a checkpoint may name: foveate's, those of entry points, and these.

    more: names that somebody typed. A checkpoint's own word is not enough to import a module.
    """
    theirs = [factory(name) for name in more]
    for name in _brought():
        try:
            theirs.append(factory(name))
        except ValueError as error:  # a package that is broken is no reason to load nothing
            warnings.warn(str(error), stacklevel=2)
    return {c.__name__: c for c in [*vars(foveate.methods).values(), *theirs] if is_compressor(c)}


def is_compressor(value: Any) -> bool:
    """Whether this is a compressor's class."""
    return isinstance(value, type) and issubclass(value, Compressor) and value is not Compressor


def _brought() -> dict[str, EntryPoint]:
    own = foveate.methods.METHODS
    return {e.name: e for e in entry_points(group=GROUP) if e.name not in own}


def _imported(name: str) -> Factory:
    """The class or function at package.module:name."""
    place, _, path = name.partition(":")
    try:
        found: Any = import_module(place)
    except (ImportError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"no method {name!r}: {place or 'an empty name'} cannot be imported ({error})"
        ) from error
    there = [n for n, value in vars(found).items() if is_compressor(value)]
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ValueError(
            f"no method {name!r}: {place} has no {path or 'empty name'}; its compressors are "
            f"{', '.join(there) or 'none'}"
        )
    if not callable(found) or isinstance(found, Compressor):
        raise ValueError(
            f"no method {name!r}: it is a {type(found).__name__}; want a compressor's class, or a function "
            "that makes one"
        )
    return found


def parameters(make: Factory) -> dict[str, inspect.Parameter]:
    """The arguments of a method by name, `keep` included."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {n: p for n, p in inspect.signature(make).parameters.items() if p.kind not in kinds}
