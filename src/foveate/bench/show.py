"""The tables that `foveate bench` prints, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

MISSING = "–"
PARTS = ("vision", "connector", "scorer", "language", "total")
LIMIT = (
    "× bare, × limit: ratios within a round, medians with one-sided 95 % bounds. The limit is the bare "
    "model on physically short prompts, each with the weight of the layers that see as many tokens. "
    "Realised: of the arithmetic that is saved, the share that became time saved."
)
WHAT = {
    "before": "what the host costs, dropping before the language model (stride at 0.25, × limit)",
    "inside": "what the host costs, dropping inside it (fastv at 0.25, × limit)",
    "idle_before": "attached before and keeping all, × bare",
    "idle_inside": "attached inside and keeping all, × bare",
}
Si = Callable[[float], str]


def tables(result: Mapping[str, Any], si: Si) -> Iterator[Table | str]:
    """What is counted, and if it was timed, what it takes. si writes large numbers: 4.2 T."""
    prompt, cells = result["prompt"], result["cells"]
    about = f"{result['model']}, {result['dtype']}, {prompt['text']} text columns"
    if cells:
        yield counted(cells, f"{about}: counts for one prompt", si)
    if cells and result["effort"] is not None:
        yield timed(cells, f"{about}: medians for the batch", si)
        yield LIMIT
        for name, limit in result["limits"].items():
            yield f"{WHAT[name]}: {ratio(limit)}, bar {limit['bar']}"


def counted(cells: list[Mapping[str, Any]], title: str, si: Si) -> Table:
    """Tokens, MACs by part, FLOPs and cache of each method and budget.

    compression: visual tokens of the prompt against their mean over the layers, in per cent.
    """
    table = _table(
        title,
        (
            "method",
            "keep",
            "of",
            "tokens",
            "mean over\nlayers",
            "compression",
            "ViT\nMACs",
            "connector",
            "scorer",
            "LLM",
            "total\nMACs",
            "FLOPs",
            "KV",
        ),
    )
    once = {(c["method"], c["keep"], c["visual"]): c for c in cells if not c["idle"]}
    for cell in once.values():
        table.add_row(
            escape(cell["method"]),
            budget(cell["keep"]),
            str(cell["visual"]),
            str(cell["tokens"]),
            f"{cell['equivalent_tokens']:.4g}",
            f"{100 * cell['compression']:.0f} %",
            *(si(cell["macs"][name]) for name in PARTS),
            si(cell["flops"]["total"]),
            f"{si(cell['kv_bytes'])}B",
        )
    return table


def timed(cells: list[Mapping[str, Any]], title: str, si: Si) -> Table:
    """Times, ratios and memory of each cell."""
    lengths = [n for n in cells[0].get("end_to_end_s", {}) if n != "1"]  # one is the first token
    table = _table(
        title,
        (
            "method",
            "keep",
            "of",
            "batch",
            "prefill",
            "× bare",
            "× limit",
            "realised",
            "first\ntoken",
            "decode\nper token",
            *(f"answer\nof {n}" for n in lengths),
            "peak",
        ),
    )
    size = None
    for cell in cells:
        if size not in (None, (cell["visual"], cell["batch"])):
            table.add_section()
        size = cell["visual"], cell["batch"]
        answers = cell.get("end_to_end_s", {})
        table.add_row(
            escape(cell["method"]) + (" (idle)" if cell["idle"] else ""),
            budget(cell["keep"]),
            *map(str, size),
            milliseconds(cell["prefill_s"]),
            ratio(cell.get("to_bare")),
            ratio(cell.get("to_limit")),
            share(cell.get("realised")),
            milliseconds(cell.get("ttft_s")),
            milliseconds(cell.get("decode_s_per_token")),
            *(milliseconds(answers.get(n)) for n in lengths),
            f"{si(cell['peak_bytes'])}B",
        )
    return table


def budget(keep: int | float | None) -> str:
    """A budget, or that the method's own arguments say it."""
    return MISSING if keep is None else str(keep)


def milliseconds(spread: Mapping[str, Any] | None) -> str:
    """A median in ms."""
    return MISSING if spread is None else f"{1000 * spread['median']:,.1f} ms"


def ratio(found: Mapping[str, Any] | None) -> str:
    """A median and its bounds."""
    if found is None:
        return MISSING
    wall = found["wall"]
    return f"{wall['median']:.3f} [dim]{wall['low']:.3f}–{wall['high']:.3f}[/dim]"


def share(found: Mapping[str, float] | None) -> str:
    """A median in per cent."""
    return MISSING if found is None else f"{100 * found['median']:.0f} %"


def _table(title: str, heads: tuple[str, ...]) -> Table:
    title = escape(title)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column(heads[0], style="bold", overflow="fold")
    for head in heads[1:]:
        table.add_column(head, justify="right")
    return table
