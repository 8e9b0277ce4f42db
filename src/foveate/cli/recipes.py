"""Recipes by name, and what `--set` makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from foveate.cli import arguments
from foveate.cli.wrong import Wrong, meant, unknown
from foveate.registry import written


def chosen(name: str, pairs: Iterable[str]) -> Any:
    """A recipe with these fields changed, all at once. `none` takes an entry out of trains or arguments.

    Raises Wrong for unknown names and for values that mean nothing.
    """
    from foveate.train import RECIPES

    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    recipe, changes = RECIPES[name](), {}
    types = {f.name: f.type for f in fields(recipe)}
    for pair in sorted(pairs, key=_field_first):
        path, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not text:
            raise Wrong(
                f"--set {pair}: want field=value, such as batch=64 or trains.projector=1e-3"
            )
        field, _, inner = path.partition(".")
        if field not in types:
            raise unknown("field of a recipe", field, types)
        if field == "method" and text != recipe.method:
            arguments.look_here(text)
            changes.setdefault("arguments", {})  # those in the recipe are the other method's
        held = changes.get(field, getattr(recipe, field))
        if text.lower() == "none" and not inner and "None" not in types[field]:
            raise Wrong(f"--set {pair}: want a value; it is {held!r}")
        changes[field] = _changed(field, held, inner, text, f"--set {pair}")
    try:
        return replace(recipe, **changes)
    except (ValueError, TypeError) as error:
        raise Wrong(f"--set: {error}") from error


def _field_first(pair: str) -> bool:
    """A method is set before its arguments, wherever it was typed."""
    return pair.partition("=")[0].strip() != "method"


def _changed(field: str, held: Any, inner: str, text: str, where: str) -> Any:
    """What a field holds after a part of it, or all of it, was set."""
    from foveate.train import Lora

    if field == "lora" and inner and held is None:
        held = Lora()
    if isinstance(held, Mapping) and inner:
        value = _value(text, held.get(inner), where)
        rest = {k: v for k, v in held.items() if k != inner}
        return rest if value is None else {**rest, inner: value}
    if isinstance(held, Lora) and inner:
        if inner not in (names := [f.name for f in fields(held)]):
            raise unknown("field of lora", inner, names)
        return replace(held, **{inner: _value(text, getattr(held, inner), where)})
    if inner:
        raise Wrong(f"{where}: {field} is {held!r}, nothing to set inside of it")
    if isinstance(held, Mapping) or (field == "lora" and text.lower() != "none"):
        raise Wrong(f"{where}: want {field}.name=value; it is {held!r}")
    return _value(text, None if field == "lora" else held, where)


def _value(text: str, like: Any, where: str) -> Any:
    """The text as a value of the same type as what stood there; what was None may become anything."""
    if text.lower() == "none":
        return None
    if isinstance(like, str):
        return text
    with meant():
        return written.literal(text) if like is None else written.typed(where, text, like)
