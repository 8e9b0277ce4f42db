"""From words on the command line to a compressor: budgets, methods and their arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from foveate.cli.wrong import Wrong, meant
from foveate.registry import setting, written

if TYPE_CHECKING:
    from foveate.core.compressor import Compressor
    from foveate.core.spec import Spec

METHODS_HELP = (
    "Names with commas; see `foveate methods`. A name may take arguments of its method: "
    "pool(stride=8, layer=2)."
)


def budget(text: str) -> int | float:
    """A budget as typed: 1 is one token, 1.0 is all of them. Raises Wrong for what means nothing."""
    try:
        return written.budget(text)
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
    look_here(text)
    if text.endswith(setting.SUFFIX):
        raise Wrong(
            f"--methods {text}: want names; a file goes with --method of ask, eval and serve"
        )
    with meant():
        return written.specs(text, "--methods ")


def chosen(slug: str, keep: int | float | None, pairs: Iterable[str] = ()) -> Spec:
    """The method a person asked for. Raises Wrong, in one line, for anything that does not fit.

    slug: its name, or a file as `foveate tune` writes one, which says all of it; pairs: its arguments as k=v.
    """
    with meant():
        budget = [] if keep is None else [f"--keep {keep}"]
        if (
            found := setting.named(slug, [*budget, *(f"--set {pair}" for pair in pairs)])
        ) is not None:
            return found
        factory(slug)
        return written.chosen(slug, keep, pairs)


def settings(slug: str, pairs: Iterable[str]) -> dict[str, Any]:
    """`k=v` pairs as arguments of this method, typed as its defaults are. Raises Wrong for others."""
    with meant():
        return written.settings(slug, pairs)
