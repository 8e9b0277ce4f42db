"""How every command reads its words: what is not one of them is named, with the nearest that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand

from foveate.cli.wrong import Wrong, unknown

# typer keeps click to itself; its public errors say which classes those are.
UsageError = typer.BadParameter.__bases__[0]


class Command(TyperCommand):
    """A command whose words are checked before anything else is done."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.context_settings["allow_extra_args"] = (
            True  # typer's own words for them say too little
        )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What was typed. Raises Wrong for words too many, unknown options, and options without a name."""
        try:
            left = super().parse_args(ctx, list(args))
        except UsageError as error:
            if hasattr(error, "possibilities"):  # there is no such option
                raise self._no_option(ctx, error.option_name) from error
            raise
        if left:
            takes = " ".join(p.metavar or p.name.upper() for p in self.params if is_argument(p))
            raise Wrong(
                f"{left[0]!r} is a word too many: {ctx.command_path} takes {takes or 'options'} and no "
                "more; a text with blanks wants quotes"
            )
        return left

    def _no_option(self, ctx: Any, name: str) -> Wrong:
        path, own = ctx.command_path, options(self)
        others = [p for p, c in walk(ctx.find_root().command, "") if name in options(c)]
        if others and name not in own:
            return Wrong(
                f"{name} is an option of {', '.join(others)}; those of {path} are {', '.join(own)}"
            )
        return unknown(f"option of {path}", name, own)


def is_argument(param: Any) -> bool:
    """Whether a word is given by its place."""
    return param.param_type_name == "argument"


def options(command: Any) -> list[str]:
    """The options of a command, as they are typed."""
    there = (p for p in command.params if not is_argument(p))
    return [name for p in there for name in (*p.opts, *p.secondary_opts)]


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below this one by what is typed for it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
    for word, one in (inner or {}).items():
        yield from walk(one, f"{name} {word}".strip())
