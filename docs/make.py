"""Write what is generated: the tables of README.md and its picture. Run by `make docs`.

Nothing here invents a number: methods come from their docstrings, results from results/*.json.
`python docs/make.py --check` only says whether README.md is as it would be written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "results"
EXAMPLE, KEPT = ROOT / "examples" / "shop.png", ROOT / "docs" / "kept.png"
QUESTION = "what does the sign say ?"
LIMITS = {
    "before": ("`stride`, 25 % kept, against a physically short prompt", "median"),
    "inside": ("`fastv`, 25 % kept, against the layer-weighted ideal", "median"),
    "idle_before": ("`stride` keeping all, against the bare model", "low"),
    "idle_inside": ("`fastv` keeping all, against the bare model", "low"),
}


def methods_table() -> str:
    """One row per method, from its docstring and its defaults."""
    from foveate.cli.methods import describe
    from foveate.methods import METHODS

    rows = []
    for slug, make in METHODS.items():
        about = describe(slug, make)
        paper = "baseline"
        if about["arxiv"]:
            paper = f"[{about['paper']}](https://arxiv.org/abs/{about['arxiv']})"
        where = ", ".join(about["sites"]) or "–"
        weights = "trained" if about["trained"] else "none"
        rows.append((f"`{slug}`", about["line"], paper, where, weights))
    return table(("method", "what it does", "paper", "acts at", "weights"), rows)


FAMILIES = {
    "LLaVA-1.5": "llava",
    "LLaVA-NeXT": "llava_next",
    "LLaVA-OneVision": "llava_onevision",
    "Video-LLaVA": "video_llava",
    "Qwen2.5-VL": "qwen2_5_vl",
    "Qwen3-VL": "qwen3_vl",
    "InternVL": "internvl",
    "SmolVLM": "smolvlm",
    "Idefics3": "idefics3",
    "Gemma 3": "gemma3",
    "PaliGemma": "paligemma",
    "Mistral 3": "mistral3",
}


def models_table() -> str:
    """One row per family, from what `foveate.support` says of a model of its default config."""
    from transformers import AutoConfig

    import foveate
    from foveate.hosts import cost, traits

    rows = []
    for family, kind in FAMILIES.items():
        model = cost.skeleton(AutoConfig.for_model(kind))
        base, found = traits.base_of(model), foveate.support(model)
        zipped = found["visionzip"]
        early = "yes" if zipped.sites == ("features",) else "no: it merges windows"
        if any("interpolated" in note for note in zipped.notes):
            early = "yes, but for interpolated views"
        axes = "time, row, column" if hasattr(base, "get_rope_index") else "one"
        videos = "images" if traits.rows_are_runs(base) else "–"
        rows.append(
            (
                family,
                f"{sum(s.works for s in found.values())} of {len(found)}",
                early,
                "class token" if traits.has_class_token(base) else "attention received",
                "clips" if "video" in traits.modalities(base) else videos,
                axes,
            )
        )
    head = ("family", "methods", "before the projector", "`cls_attention`", "video", "positions")
    return table(head, rows)


def results_section() -> str:
    """A table for every comparison and benchmark among the result files."""
    found = {p: json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))}
    parts = [compared(p, d) for p, d in found.items() if {"runs", "task", "groups"} <= d.keys()]
    parts += [benched(p, d) for p, d in found.items() if {"limits", "run"} <= d.keys()]
    return "\n\n".join(parts) or "_No result file yet: `make demo`, then `make docs`._"


def compared(path: Path, result: Mapping[str, Any]) -> str:
    """The table of one `foveate compare`."""
    groups = [g for g in result["groups"] if g != "overall"]
    rows = []
    for run in result["runs"]:
        # A run of another model is of one that was trained with its method.
        other = run.get("model", result["model"]) != result["model"]
        low, high = run["interval"]["overall"]
        rows.append(
            (
                f"`{run['model']}`, trained" if other else f"`{run['method']}`",
                budget(run["keep"]),
                f"{run['tokens']:.4g}",
                f"**{percent(run['accuracy']['overall'])}** ({percent(low)}–{percent(high)})",
                *(percent(run["accuracy"][g]) for g in groups),
                f"{run['prefill']['ratio']:.2f}" if run["prefill"] else "–",
                f"{run['cost']['total'] / 1e6:,.0f}",
            )
        )
    head = ("method", "keep", "tokens", "overall", *groups, "prefill × bare", "MMAC")
    where = result["circumstances"]
    about = (
        f"Model `{result['model']}`, task `{result['task']}`, {result['n']} questions, exact match in %, "
        f"with a 95 % interval ({source(path)}, {where['device']}, torch {where['versions']['torch']}, "
        f"transformers {where['versions']['transformers']}, commit {short(where['commit'])})."
    )
    return f"{about}\n\n{table(head, rows)}"


def benched(path: Path, result: Mapping[str, Any]) -> str:
    """The tables of one `foveate bench`: what it counts, what it times, and the limits."""
    prompt, run = result["prompt"], result["run"]
    where = (
        f"{source(path)}, {run['device']}, {run['threads']} threads, torch {run['versions']['torch']}, "
        f"commit {short(run['commit'])}"
    )
    of = f"{result['model']}, {prompt['visual']} visual and {prompt['text']} text tokens"
    cells = [cell for cell in result.get("cells", ()) if not cell["idle"]]
    parts = []
    if cells:
        first = [cell for cell in cells if cell["batch"] == cells[0]["batch"]]
        parts += [f"What one prompt costs, {of} ({where}).", counted(first, prompt["visual"])]
    if timed := [cell for cell in cells if "prefill_s" in cell]:
        about = f"What it takes, {of}: medians ({where}). The limit is a physically short prompt."
        parts += [about, timings(timed)]
    if limits := result["limits"]:
        rounds = next(iter(limits.values()))["pairs"]
        about = (
            f"Prefill time as a ratio, {of}: medians over {rounds} interleaved rounds, "
            f"with one-sided 95 % bounds ({where})."
        )
        parts += [
            about,
            table(("prefill", "measured", "bar"), map(judged, *zip(*limits.items(), strict=True))),
        ]
    return "\n\n".join(parts)


def judged(name: str, limit: Mapping[str, Any]) -> tuple[str, str, str]:
    """One ratio to the limit, and its bar."""
    what, by = LIMITS[name]
    wall = limit["wall"]
    span = f"{wall['low']:.3f}–{wall['high']:.3f}"
    by = "median" if by == "median" else "lower bound"
    return what, f"{wall['median']:.3f} ({span})", f"{by} ≤ {limit['bar']}"


def counted(cells: Iterable[Mapping[str, Any]], visual: int) -> str:
    """Tokens, multiply-accumulates by part, and cache of one prompt with so many visual tokens."""
    parts = ("vision", "connector", "scorer", "language", "total")
    rows = [
        (
            f"`{cell['method']}`",
            budget(cell["keep"]),
            cell["tokens"],
            f"{cell['equivalent_tokens']:.4g}",
            f"{100 * visual / cell['equivalent_tokens']:.0f} %",
            *(f"{cell['macs'][part] / 1e9:,.4g}" for part in parts),
            f"{cell['flops']['total'] / 1e9:,.4g}",
            f"{cell['kv_bytes'] / 2**20:,.4g}",
        )
        for cell in cells
    ]
    macs = ("ViT GMAC", "connector", "scorer", "LLM", "total", "GFLOP")
    return table(
        ("method", "keep", "tokens", "mean over layers", "compression", *macs, "KV MiB"), rows
    )


def timings(cells: Sequence[Mapping[str, Any]]) -> str:
    """Medians of each cell, in ms, and its ratios."""
    lengths = [n for n in cells[0]["end_to_end_s"] if n != "1"]
    parts = any("connector_s" in cell for cell in cells)  # older files time the whole only

    def ms(spread: Mapping[str, Any] | None) -> str:
        return "–" if spread is None else f"{1000 * spread['median']:,.4g}"

    def times(ratio: Mapping[str, Any] | None) -> str:
        return "–" if ratio is None else f"{ratio['wall']['median']:.2f}"

    def part(cell: Mapping[str, Any]) -> str:
        found = cell.get("connector_share")
        return "–" if found is None else f"{100 * found['wall']['median']:.1f} %"

    rows = [
        (
            f"`{cell['method']}`",
            budget(cell["keep"]),
            cell["batch"],
            ms(cell["prefill_s"]),
            times(cell.get("to_bare")),
            times(cell.get("to_limit")),
            *(
                (ms(cell.get("connector_s")), part(cell), times(cell.get("to_bare_behind_tower")))
                * parts
            ),
            ms(cell["ttft_s"]),
            ms(cell["decode_s_per_token"]),
            *(ms(cell["end_to_end_s"][n]) for n in lengths),
            f"{cell['peak_bytes'] / 2**20:,.4g}",
        )
        for cell in cells
    ]
    answers = (f"{n} tokens, ms" for n in lengths)
    head = ("method", "keep", "batch", "prefill, ms", "× bare", "× limit")
    shares = ("connector, ms", "of prefill", "connector and LLM × bare") * parts
    after = ("first token, ms", "per further token, ms", *answers, "peak MiB")
    return table((*head, *shares, *after), rows)


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    head = tuple(head)
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


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
    """A link to a result file."""
    return f"[{path.name}](results/{path.name})"


def filled(readme: str) -> str:
    """README.md with what stands between its markers written anew."""
    written = {
        "methods": methods_table(),
        "models": models_table(),
        "results": results_section(),
    }
    for name, text in written.items():
        begin, end = f"<!-- {name}: written by docs/make.py -->", f"<!-- /{name} -->"
        before, _, rest = readme.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md has no {begin} … {end}")
        readme = f"{before}{begin}\n{text}\n{end}{after}"
    return readme


def picture() -> None:
    """What FastV keeps of the example, drawn by the command that users type."""
    ask = ["foveate", "ask", EXAMPLE, QUESTION, "--method", "fastv", "--keep", "0.25"]
    subprocess.run(
        [Path(sys.executable).with_name(ask[0]), *ask[1:], "--picture", KEPT], check=True
    )


def main() -> int:
    """Write everything, or check."""
    before = README.read_text()
    after = filled(before)
    if "--check" in sys.argv[1:]:
        print("README.md is as generated" if before == after else "README.md is stale: make docs")
        return int(before != after)
    README.write_text(after)
    picture()
    return 0


if __name__ == "__main__":
    sys.exit(main())
