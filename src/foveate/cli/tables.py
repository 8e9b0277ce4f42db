"""The table that `compare` and `eval` print, and the lines below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.cli.said import visible

NAME = 22  # letters of a method in a line


def table(document: Mapping[str, Any]) -> Any:
    """Method × budget, or trained model → tokens, accuracy, time beside the bare model, MACs.

    It fits 100 columns where methods have names of theirs; the report has every interval.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from foveate.evaluate.comparison import tokens
    from foveate.evaluate.report import interval, percent, si
    from foveate.evaluate.results import USUAL
    from foveate.evaluate.score import OVERALL

    asked = f", protocol {document['protocol']}" if document.get("protocol") else ""
    asked += switched(document)
    some = next((run["scored"] for run in document["runs"] if "scored" in run), document["n"])
    asked += f", scored by {document['metric']}" if document["metric"] != USUAL["metric"] else ""
    many = f"{document['n']} questions" + (f", {some} with a score" if some < document["n"] else "")
    where = f"{document['model']} on {document['task']}{asked}, {many}, 95 % intervals"
    title = escape(visible(where))
    made = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 0),
        title=title,
        title_justify="left",
    )
    made.add_column("method", style="bold", overflow="fold", max_width=NAME)
    heads = (
        "keep",
        "tokens",
        "layers",
        *document["groups"],
        "prefill",
        "MACs",
    )
    for head in heads:
        made.add_column(head, justify="right")
    last = None
    for run in document["runs"]:
        name = run["name"]
        if last not in (None, name):
            made.add_section()
        shares = [percent(run["accuracy"][g]) for g in document["groups"]]
        shares[0] += f" [dim]{interval(run['interval'][OVERALL])}[/dim]"
        made.add_row(
            escape(visible(name)) if name != last else "",
            "–" if run["keep"] is None else str(run["keep"]),
            f"{run['tokens']:.4g}",
            f"{tokens(run):.4g}",
            *shares,
            f"{run['prefill']['ratio']:.2f}" if run["prefill"] else "–",
            si(run["cost"]["total"]),
        )
        last = name
    return made


def switched(document: Mapping[str, Any]) -> str:
    """What `compress` was told of dropped tokens and of attention, where it is not as usual."""
    from foveate.evaluate.results import USUAL

    told = {name: document.get(name) for name in ("dropped", "attention")}
    return "".join(
        f", {name} {word}" for name, word in told.items() if word not in (None, USUAL[name])
    )


def more(document: Mapping[str, Any]) -> list[str]:
    """What a metric says beside the score, a line for each run; [] where it says nothing."""
    lines = []
    for run in document["runs"]:
        told = ", ".join(
            f"{name} {100 * value:.1f} %" for name, value in run.get("more", {}).items()
        )
        budget = "" if run["keep"] is None else f" {run['keep']}"
        lines += [f"{run['name']}{budget}: {told}"] if told else []
    return lines


def shares(run: Mapping[str, Any]) -> list[str]:
    """What is left of an image after each step of a run, and both ways to count the share; [] of all."""
    if not run.get("steps"):
        return []
    came = f"{run['steps'][0]['before']:.4g}"
    left = [f"{s['after']:.4g} after {s['compressor']} ({s['site']})" for s in run["steps"]]
    return [
        f"tokens of an image: {' → '.join([came, *left])}",
        f"share of the tokens: {100 * run['share']:.3g} % left at the end, "
        f"{100 * run['layer_share']:.3g} % in the mean over the decoder layers",
    ]
