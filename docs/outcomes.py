"""The tables of what was measured: every number from a file in results/."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tables import table

RESULTS = Path(__file__).resolve().parents[1] / "results"


def costs() -> str:
    """What every benchmark among the result files counted."""
    parts = []
    for path, result in _benchmarks():
        cells = [cell for cell in result.get("cells", ()) if not cell["idle"]]
        if first := [cell for cell in cells if cell["batch"] == cells[0]["batch"]]:
            parts += [f"### {_title(result)}", _where(path, result), counted(first)]
    return "\n\n".join(parts)


def speed() -> str:
    """What every benchmark with weights measured, and the limits it was held to."""
    parts = []
    for path, result in _benchmarks():
        timed = [
            cell for cell in result.get("cells", ()) if "prefill_s" in cell and not cell["idle"]
        ]
        if timed or result["limits"]:
            parts += [f"### {_title(result)}", _where(path, result)]
        if timed:
            parts.append(timings(timed))
        if result["limits"]:
            parts.append(limits(result["limits"]))
    return "\n\n".join(parts)


def selectors() -> str:
    """How long each selector takes for one image, and of what it saves, how much that is."""
    path = RESULTS / "selectors.json"
    result = json.loads(path.read_text())
    sizes = result["sizes"]
    head = [
        "method",
        *(f"{n['keep']} of {n['tokens']:,}, ms" for n in sizes),
        *("of the saved time, %",) * len(sizes),
    ]
    rows = [
        [
            f"`{name}`",
            *(f"{1000 * size['methods'][name]['seconds']:.1f}" for size in sizes),
            *(f"{100 * size['methods'][name]['saved_share']:.2f}" for size in sizes),
        ]
        for name in sizes[0]["methods"]
    ]
    about = (
        f"{source(path)}, {result['device']}, {result['threads']} threads, torch "
        f"{result['versions']['torch']}, commit {short(result['commit'])}."
    )
    return f"{about}\n\n{table(head, rows)}"


def training() -> str:
    """What of a step is none of its three parts; and steps with methods, beside short prompts."""
    outside, steps = RESULTS / "training.json", RESULTS / "steps-small.json"
    parts = []
    if outside.exists():
        found = json.loads(outside.read_text())
        share, recipe = found["shares"]["outside"], found["recipe"]
        span = f"{percent(share['median'])} % ({percent(share['low'])}–{percent(share['high'])})"
        parts.append(
            f"Of a step of `{recipe}`, {span} is neither forward, backward nor optimizer. {source(outside)}"
        )
    if steps.exists():
        found = json.loads(steps.read_text())
        rows = [
            (f"`{cell['method']}`", budget(cell["keep"]), *_stepped(cell["training"]))
            for cell in found["cells"]
            if "to_bare" in cell and "training" in cell
        ]
        head = ("method", "keep", "step", "step, checkpointing", "memory", "memory, checkpointing")
        parts += [_where(steps, found), table(head, rows)]
    return "\n\n".join(parts) or "Not measured yet: `make bench` does."


def _stepped(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A step's time and its memory, × the bare model's / × the short prompt's, of each way to train."""
    ways = found.values()
    times = [tuple(way[of]["wall"]["median"] for of in ("to_bare", "to_limit")) for way in ways]
    peaks = [(way["peak_to_bare"], way["peak_to_limit"]) for way in ways]
    return [f"{bare:.2f} / {limit:.2f}" for bare, limit in (*times, *peaks)]


def _benchmarks() -> list[tuple[Path, Mapping[str, Any]]]:
    found = [(path, json.loads(path.read_text())) for path in sorted(RESULTS.glob("bench-*.json"))]
    return [(path, result) for path, result in found if {"limits", "run"} <= result.keys()]


def _title(result: Mapping[str, Any]) -> str:
    methods = dict.fromkeys(c["method"].partition("(")[0] for c in result.get("cells", ()))
    return f"{result['model']}: {', '.join(m for m in methods if m != 'identity')}"


def _where(path: Path, result: Mapping[str, Any]) -> str:
    prompt, run = result["prompt"], result["run"]
    return (
        f"{prompt['visual']} visual and {prompt['text']} text tokens. {source(path)}, {run['device']}, "
        f"{run['threads']} threads, torch {run['versions']['torch']}, commit {short(run['commit'])}."
    )


def counted(cells: Iterable[Mapping[str, Any]]) -> str:
    """Tokens, multiply-accumulates by part, and cache of one prompt."""
    parts = ("vision", "connector", "scorer", "language", "total")
    rows = [
        (
            f"`{cell['method']}`",
            budget(cell["keep"]),
            cell["tokens"],
            f"{cell['equivalent_tokens']:.4g}",
            *(f"{cell['macs'][part] / 1e9:,.4g}" for part in parts),
            f"{cell['kv_bytes'] / 2**20:,.4g}",
        )
        for cell in cells
    ]
    macs = ("tower", "connector", "scorer", "LLM", "total GMAC")
    return table(("method", "keep", "tokens left", "mean over layers", *macs, "cache, MiB"), rows)


def timings(cells: Sequence[Mapping[str, Any]]) -> str:
    """Medians of each cell, and its ratios to the bare model and to a physically short prompt."""

    def ms(spread: Mapping[str, Any] | None) -> str:
        return "–" if spread is None else f"{1000 * spread['median']:,.4g}"

    def times(ratio: Mapping[str, Any] | None) -> str:
        return "–" if ratio is None else f"{ratio['wall']['median']:.2f}"

    rows = [
        (
            f"`{cell['method']}`",
            budget(cell["keep"]),
            times(cell.get("to_bare")),
            times(cell.get("to_limit")),
            ms(cell["prefill_s"]),
            ms(cell["ttft_s"]),
            ms(cell["decode_s_per_token"]),
            f"{cell['peak_bytes'] / 2**20:,.4g}",
        )
        for cell in cells
    ]
    head = ("method", "keep", "prefill × bare", "× short prompt", "prefill, ms")
    return table((*head, "first token, ms", "each further, ms", "peak, MiB"), rows)


LIMITS = {
    "before": ("`stride`, 25 % kept, against a physically short prompt", "median"),
    "inside": ("`fastv`, 25 % kept, against the layer-weighted ideal", "median"),
    "idle_before": ("`stride` keeping all, against the bare model", "lower bound"),
    "idle_inside": ("`fastv` keeping all, against the bare model", "lower bound"),
}


def limits(found: Mapping[str, Any]) -> str:
    """Each ratio to the limit with its one-sided 95 % bounds, and the bar it is held to."""
    rows = []
    for name, limit in found.items():
        (what, by), wall = LIMITS[name], limit["wall"]
        span = f"{wall['median']:.3f} ({wall['low']:.3f}–{wall['high']:.3f})"
        rows.append((what, limit["pairs"], span, f"{by} ≤ {limit['bar']}"))
    return table(("prefill", "rounds", "ratio", "bar"), rows)


def budget(keep: int | float | None) -> str:
    """A budget as people type it, 1.0 for all and 1 for one; none where other arguments say it."""
    return "–" if keep is None else str(keep)


def percent(share: float) -> str:
    """A share as in tables."""
    return f"{100 * share:.1f}"


def short(commit: str | None) -> str:
    """A commit as people say it; the mark of a changed checkout stays."""
    return "unknown" if commit is None else commit[:9] + ("+" if commit.endswith("+") else "")


def source(path: Path) -> str:
    """A link to a result file, as from the root."""
    return f"[{path.name}](results/{path.name})"
