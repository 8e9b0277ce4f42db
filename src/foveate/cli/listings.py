"""The tables that `foveate draw` prints beside its figures."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from foveate.cli.said import visible


def sized(document: dict[str, Any]) -> Any:
    """Step × size → shares in %."""
    heads = ("tokens", "patches\nper token", "% of\ntokens", "% of\nimage")
    made = _table(f"{document['method']}: {_where(document)}", "step", *heads)
    for step in document["steps"]:
        first = (step["site"], f"{step['tokens']:.4g}")
        for one in step["sizes"]:
            shares = (f"{100 * one[of]:.1f}" for of in ("tokens", "area"))
            made.add_row(*first, str(one["patches"]), *shares)
            first = ("", "")
        if step["dropped"]:
            made.add_row("", "", "dropped", "–", f"{100 * step['dropped']:.1f}")
        made.add_section()
    return made


def guided(document: dict[str, Any]) -> Any:
    """Method × layer → tokens, accuracy and what a prefill takes."""
    from foveate.evaluate.comparison import tokens
    from foveate.evaluate.report import interval, percent, si

    heads = ("layer", "tokens", "mean over\nlayers", "accuracy", "prefill\n× bare", "MACs")
    made = _table(f"{_where(document)}, 95 % intervals", "method", *heads)
    last = None
    for run in document["runs"]:
        name = run["series"] or run["name"]
        if last not in (None, name):
            made.add_section()
        ends = interval(run["interval"]["overall"])
        made.add_row(
            escape(visible(name)) if name != last else "",
            "–" if run["layer"] is None else str(run["layer"]),
            f"{run['tokens']:.4g}",
            f"{tokens(run):.4g}",
            f"{percent(run['accuracy']['overall'])} [dim]{ends}[/dim]",
            f"{run['prefill']['ratio']:.2f}" if run["prefill"] else "–",
            si(run["cost"]["total"]),
        )
        last = name
    return made


def _where(document: dict[str, Any]) -> str:
    return f"{document['model']} on {document['task']}, {document['n']} questions"


def _table(title: str, first: str, *heads: str) -> Any:
    from rich import box
    from rich.table import Table

    title = escape(visible(title))
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    made.add_column(first, style="bold")
    for head in heads:
        made.add_column(head, justify="right")
    return made
