"""From words on the command line to a compressor: budgets, methods and their arguments."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from foveate.cli.wrong import Wrong, unknown

if TYPE_CHECKING:
    from foveate.compressor import Compressor


def budget(text: str) -> int | float:
    """A budget as typed: 1 is one token, 1.0 is all of them. Raises Wrong for what means nothing."""
    from foveate.ops import check_keep

    try:
        keep = int(text)
    except ValueError:
        try:
            keep = float(text)
        except ValueError:
            keep = text
    try:
        return check_keep(keep)
    except ValueError as error:
        raise Wrong(f"--{error}") from error


def listed(text: str) -> list[str]:
    """The names in a comma-separated list."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def factory(slug: str) -> Callable[..., Compressor]:
    """The method of this name. Raises Wrong with the nearest name if there is none."""
    from foveate.methods import METHODS

    if slug not in METHODS:
        raise unknown("method", slug, METHODS)
    return METHODS[slug]


def parameters(make: Callable[..., Compressor]) -> dict[str, inspect.Parameter]:
    """The arguments of a method, by name, `keep` included."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {n: p for n, p in inspect.signature(make).parameters.items() if p.kind not in kinds}


def build(slug: str, keep: int | float | None, pairs: Iterable[str] = ()) -> Compressor:
    """The compressor a person asked for. Raises Wrong, in one line, for anything that does not fit."""
    make = factory(slug)
    given = settings(slug, pairs)
    if keep is not None:
        given["keep"] = keep
    try:
        return make(**given)
    except (ValueError, TypeError) as error:
        raise Wrong(f"{slug}: {error}") from error


def settings(slug: str, pairs: Iterable[str]) -> dict[str, Any]:
    """`k=v` pairs as arguments of this method, typed as its defaults are."""
    own = {n: p for n, p in parameters(factory(slug)).items() if n != "keep"}
    given = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if name == "keep":
            raise Wrong("--set keep=…: the budget has an option of its own, --keep")
        if name not in own:
            raise unknown(f"argument of {slug}", name, own)
        if not equals or not text:
            raise Wrong(f"--set {pair}: want name=value, such as {name}={own[name].default}")
        given[name] = _typed(f"--set {pair}", text, own[name].default)
    return given


def _typed(where: str, text: str, like: Any) -> Any:
    """The text as a value of the same type as the default."""
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise Wrong(f"{where}: want true or false")
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if like is not inspect.Parameter.empty and like is not None and type(value) is not type(like):
        raise Wrong(f"{where}: want {_kind(like)}, such as {like}")
    return value


def _kind(like: Any) -> str:
    return {int: "a whole number", float: "a number"}.get(type(like), f"a {type(like).__name__}")
