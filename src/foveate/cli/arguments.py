"""From words on the command line to a compressor: budgets, methods and their arguments."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from foveate.cli import values
from foveate.cli.wrong import Wrong, unknown

if TYPE_CHECKING:
    from foveate.core.compressor import Compressor
    from foveate.core.spec import Spec

METHODS_HELP = (
    "Names with commas; see `foveate methods`. A name may take arguments of its method: "
    "pool(stride=8, layer=2)."
)
OUTSIDE = re.compile(r",(?![^(]*\))")  # commas outside parentheses
MOST_WEIGHTS = 2_000_000_000  # a connector of a 7B model has a tenth of that
UNLISTED = re.compile(r",(?![^[]*\])")  # commas outside of a list
SPEC = re.compile(r"([^()]*)(?:\(([^()]*)\))?")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def budget(text: str) -> int | float:
    """A budget as typed: 1 is one token, 1.0 is all of them. Raises Wrong for what means nothing."""
    from foveate.core.ops import check_keep

    keep = values.number(text)
    try:
        return check_keep(text if keep is None else keep)
    except ValueError as error:
        raise Wrong(f"--{error}") from error


def budgets(text: str, specs: Iterable[Spec]) -> list[int | float]:
    """The budgets in a comma-separated list. Raises Wrong if a method wants one and there is none."""
    found = [budget(part) for part in listed(text)]
    if not all(spec.budgets(found) for spec in specs):
        raise Wrong("--keeps is empty: want budgets with commas, such as 0.5,0.25")
    return found


def listed(text: str) -> list[str]:
    """The names in a comma-separated list."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def factory(name: str) -> Callable[..., Compressor]:
    """The method of this name. Raises Wrong with the nearest name if there is none.

    A class of one's own, package.module:Class, may lie in the folder one is in.
    """
    from foveate.registry import methods

    if "(" in name:
        raise Wrong(f"method {name}: want its name alone; arguments go by --keep and --set")
    look_here(name)
    try:
        return methods.factory(name)
    except ValueError as error:
        raise Wrong(str(error)) from error


def look_here(name: str) -> None:
    """Let a class of one's own, package.module:Class, be found in the folder one is in."""
    if ":" in name and "" not in sys.path:
        sys.path.insert(0, "")


def specs(text: str) -> list[Spec]:
    """The methods in a comma-separated list, each a name or name(argument=value, …), no one twice.

    Raises Wrong for methods, arguments and values that do not exist.
    """
    found = []
    for part in filter(None, map(str.strip, OUTSIDE.split(text))):
        if (spec := _spec(part)) not in found:
            found.append(spec)
    return found


def _spec(text: str) -> Spec:
    match = SPEC.fullmatch(text)
    if match is None:
        raise Wrong(
            f"--methods {text}: want a name, or one with arguments: pool(stride=8, layer=2)"
        )
    slug, keep, pairs = match[1].strip(), None, []
    factory(slug)
    for pair in filter(None, map(str.strip, UNLISTED.split(match[2] or ""))):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name != "keep":
            pairs.append(pair)
        elif keep is None:
            keep = budget(value)
        else:
            raise Wrong(f"--methods {text}: keep is given twice")
    return chosen(slug, keep, pairs, f"--methods {slug}({{}})")


def chosen(
    slug: str, keep: int | float | None, pairs: Iterable[str] = (), where: str = "--set {}"
) -> Spec:
    """The method a person asked for. Raises Wrong, in one line, for anything that does not fit.

    pairs: its arguments as k=v; where: how an error quotes one of them.
    """
    from foveate.core.spec import Spec

    spec = Spec(slug, factory(slug), settings(slug, pairs, where), keep)
    try:
        weigh(spec)
    except (ValueError, TypeError) as error:
        raise Wrong(f"{spec}: {error}") from error
    return spec


def weigh(spec: Spec) -> None:
    """Try a method. Raises as it does, and ValueError for one of too many weights."""
    weights = sum(p.numel() for p in spec.tried().parameters())
    if weights > MOST_WEIGHTS:
        raise ValueError(f"{weights:,} weights: want at most {MOST_WEIGHTS:,}, so smaller sizes")


def settings(slug: str, pairs: Iterable[str], where: str = "--set {}") -> dict[str, Any]:
    """`k=v` pairs as arguments of this method, typed as its defaults are."""
    from foveate.registry.methods import parameters

    own = {n: p for n, p in parameters(factory(slug)).items() if n != "keep"}
    given = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if name == "keep":
            raise Wrong("--set keep=…: the budget has an option of its own, --keep")
        if name not in own:
            raise unknown(f"argument of {slug}", name, own)
        if not equals or not text:
            example = f"{name}={own[name].default}"
            raise Wrong(f"{where.format(pair)}: want name=value, such as {example}")
        if name in given:
            raise Wrong(f"{where.format(pair)}: {name} is given twice")
        given[name] = _typed(where.format(pair), text, own[name].default)
    return given


def _typed(where: str, text: str, like: Any) -> Any:
    """The text as a value of the same type as the default."""
    if isinstance(like, str):
        return text[1:-1] if QUOTED.fullmatch(text) else text
    if like is inspect.Parameter.empty or like is None:
        return values.literal(text)
    return values.typed(where, text, list(like) if isinstance(like, tuple) else like)
