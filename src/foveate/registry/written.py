"""A method as people write it, on the command line or in a request: from its words to a `Spec`.

Every error is a ValueError of one line that says what, what is allowed, and what is nearest.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import math
import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.core.spec import Spec

LARGEST = 2**31 - 1  # as foveate.core.ops has it, which takes torch to read
MOST_WEIGHTS = 2_000_000_000  # a connector of a 7B model has a tenth of that
DIGITS, LONGEST = 1_000, 10_000  # letters of a number, and of a literal
WHOLE = re.compile(r"[+-]?[0-9]+")
REAL = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?|[+-]?(inf|nan)", re.IGNORECASE
)
OUTSIDE = re.compile(r",(?![^(]*\))")  # commas outside parentheses
UNLISTED = re.compile(r",(?![^[]*\])")  # commas outside of a list
SPEC = re.compile(r"([^()]*)(?:\(([^()]*)\))?")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def specs(text: str, where: str = "") -> list[Spec]:
    """The methods in a comma-separated list, each a name or name(argument=value, …), no one twice.

    where: how an error begins. Raises ValueError for methods, arguments and values that do not exist.
    """
    found = []
    for part in filter(None, map(str.strip, OUTSIDE.split(text))):
        if (one := spec(part, where)) not in found:
            found.append(one)
    return found


def spec(text: str, where: str = "") -> Spec:
    """One method, as in `specs`."""
    from foveate.registry import methods

    if OUTSIDE.search(text):
        raise ValueError(f"{where}{text}: want one method, such as divprune")
    match = SPEC.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{where}{text}: want a name, or one with arguments: pool(stride=8, layer=2)"
        )
    slug, keep, pairs = match[1].strip(), None, []
    methods.factory(slug)
    for pair in filter(None, map(str.strip, UNLISTED.split(match[2] or ""))):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name != "keep":
            pairs.append(pair)
        elif keep is None:
            keep = budget(value)
        else:
            raise ValueError(f"{where}{text}: keep is given twice")
    return chosen(slug, keep, pairs, f"{where}{slug}({{}})")


def chosen(
    slug: str, keep: int | float | None, pairs: Iterable[str] = (), where: str = "--set {}"
) -> Spec:
    """The method a person asked for. Raises ValueError, in one line, for anything that does not fit.

    pairs: its arguments as k=v; where: how an error quotes one of them.
    """
    from foveate.core.spec import Spec
    from foveate.registry.methods import factory

    found = Spec(slug, factory(slug), settings(slug, pairs, where), keep)
    try:
        weigh(found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{found}: {error}") from error
    return found


def weigh(spec: Spec) -> None:
    """Try a method. Raises as it does, and ValueError for one of too many weights."""
    weights = sum(p.numel() for p in spec.tried().parameters())
    if weights > MOST_WEIGHTS:
        raise ValueError(f"{weights:,} weights: want at most {MOST_WEIGHTS:,}, so smaller sizes")


def settings(slug: str, pairs: Iterable[str], where: str = "--set {}") -> dict[str, Any]:
    """`k=v` pairs as arguments of this method, typed as its defaults are."""
    from foveate.registry.methods import factory, parameters

    own = {n: p for n, p in parameters(factory(slug)).items() if n != "keep"}
    given = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if name == "keep":
            raise ValueError("--set keep=…: the budget has an option of its own, --keep")
        if name not in own:
            raise ValueError(unknown(f"argument of {slug}", name, own))
        if not equals or not text:
            example = f"{name}={own[name].default}"
            raise ValueError(f"{where.format(pair)}: want name=value, such as {example}")
        if name in given:
            raise ValueError(f"{where.format(pair)}: {name} is given twice")
        given[name] = _typed(where.format(pair), text, own[name].default)
    return given


def _typed(where: str, text: str, like: Any) -> Any:
    """The text as a value of the same type as the default."""
    if isinstance(like, str):
        return text[1:-1] if QUOTED.fullmatch(text) else text
    if like is inspect.Parameter.empty or like is None:
        return literal(text)
    return typed(where, text, list(like) if isinstance(like, tuple) else like)


def budget(text: str) -> int | float:
    """A budget as typed: 1 is one token, 1.0 is all of them. Raises ValueError for what means nothing."""
    from foveate.core.ops import check_keep

    keep = number(text)
    return check_keep(text if keep is None else keep)


def number(text: str) -> int | float | None:
    """The number that is written in plain digits, 3 or 0.25 or 1e-4; None for any other text."""
    text = text.strip()
    if len(text) > DIGITS:
        return None
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text) if REAL.fullmatch(text) else None


def literal(text: str) -> Any:
    """The text as a number, true, false, None, or a list of such; the text itself if it is none."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if (plain := number(text)) is not None:
        return plain
    if text[:1] not in tuple("[({'\"N") or len(text) > LONGEST:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, about how it is written
            value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return value


def typed(where: str, text: str, like: Any) -> Any:
    """The text as a value of the same type as this one. Raises ValueError for others, where in front."""
    if isinstance(like, bool) and text.lower() not in ("true", "false"):
        raise ValueError(f"{where}: want true or false")
    value = literal(text)
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < LARGEST**2 else math.inf
    if type(value) is not type(like) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where}: want {_kind(like)}, such as {like}")
    return value


def _kind(like: Any) -> str:
    return {int: "a whole number", float: "a number"}.get(type(like), f"a {type(like).__name__}")


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """The line for a name that does not exist: the nearest one first, then all."""
    names = list(allowed)
    near = nearest(name, names)
    return f"unknown {what} {name!r}: {near}there are {', '.join(names) or 'none'}"


def nearest(name: str, names: Iterable[str]) -> str:
    """The nearest of these names, as errors begin with it; empty if none is near."""
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"nearest: {close[0]}; " if close else ""
