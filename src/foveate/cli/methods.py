"""`foveate methods`: what there is, read from the methods themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from foveate.cli import arguments, output, starting

IDENTITY = "identity"  # acts nowhere
FIRST_LINE = re.compile(
    r"(?P<line>.+?)\.\s+(?P<paper>[^.]*? (et al\.|and \w+) \d{4}), arXiv:(?P<arxiv>\d{4}\.\d{4,5})"
)


def methods(
    model: Annotated[
        str | None,
        typer.Option(
            help="Say which of them work on this model: a name that `bench` knows, 'embedded', a directory "
            "or a Hub id. Only its config is read."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List every method: paper, where it acts, trained or not, arguments."""
    starting.load("foveate.registry.methods")
    from foveate.registry.methods import names

    found = [describe(slug, arguments.factory(slug)) for slug in names()]
    table = _table
    if model is not None:
        output.hush()
        found, table = _supported(model, found), _support_table
    if json:
        with output.answering() as emit:
            emit(found)
        return
    output.screen().print(table(found))


def _supported(name: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The descriptions, each with what this model makes of the method."""
    import foveate
    from foveate.cli import models

    support = foveate.support(models.skeleton(name))
    return [{**one, **_acting(one, asdict(support[one["slug"]]))} for one in found]


def _acting(method: dict[str, Any], support: dict[str, Any]) -> dict[str, Any]:
    """What a model makes of a method; one that keeps every token acts nowhere on any model."""
    return support if method["sites"] else {**support, "sites": []}


def _support_table(found: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("method", "works", "acts at", "what to know"):
        table.add_column(title, no_wrap=title in ("method", "works"), overflow="fold")
    for row in found:
        said = "\n".join(filter(None, [row["why"], *row["notes"]]))
        sites = ", ".join(row["sites"]) or "–"
        works = "yes" if row["works"] else "no"
        table.add_row(f"[bold]{row['slug']}[/bold]", works, sites, escape(said))
    return table


def describe(slug: str, make: Callable[..., Any]) -> dict[str, Any]:
    """One method in words, from its docstring, its signature and one made with its defaults."""
    import torch

    from foveate.core.compressor import spans
    from foveate.registry.methods import parameters

    own = parameters(make)
    with torch.device("meta"):  # those of a 7B model have weights to match
        example = make()
    about = getattr(make, "__self__", make)  # a classmethod speaks for its class
    first = (about.__doc__ or "").strip().splitlines()[0]
    match = FIRST_LINE.match(first)
    return {
        "slug": slug,
        "class": type(example).__name__,
        "line": match["line"] if match else first.partition(". ")[0].rstrip("."),
        "paper": match["paper"].removeprefix("After ") if match else None,
        "arxiv": match["arxiv"] if match else None,
        "sites": [] if slug == IDENTITY else spans(part.site for part in example.parts()),
        "trained": any(True for _ in example.parameters()),
        "arguments": {name: parameter.default for name, parameter in own.items()},
    }


def _table(found: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("method", "what it does", "paper", "acts at", "weights", "arguments"):
        table.add_column(title, no_wrap=title in ("method", "weights"), overflow="fold")
    for row in found:
        paper = f"{row['paper']}\narXiv:{row['arxiv']}" if row["paper"] else "–"
        given = ", ".join(f"{k}={_written(v)}" for k, v in row["arguments"].items())
        weights = "trained" if row["trained"] else "none"
        sites = ", ".join(row["sites"]) or "–"
        told = map(escape, (row["line"], paper, sites, weights, given))
        table.add_row(f"[bold]{row['slug']}[/bold]", *told)
    return table


def _written(value: Any) -> str:
    """A default as it is typed; the whole number that it is, since 0.1562 would be another one."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
