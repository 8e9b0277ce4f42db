"""Write what is generated: the tables of README.md and its picture. Run by `make docs`.

Nothing here invents a number: methods come from their docstrings, results from results/*.json.
`python docs/make.py --check` only says whether README.md is as it would be written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
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
        where = "–" if slug == "identity" else ", ".join(about["sites"])
        weights = "trained" if about["trained"] else "none"
        rows.append((f"`{slug}`", about["line"], paper, where, weights))
    return table(("method", "what it does", "paper", "acts at", "weights"), rows)


def results_section() -> str:
    """A table for every comparison and benchmark among the result files."""
    found = {p: json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))}
    parts = [compared(p, d) for p, d in found.items() if {"runs", "task", "groups"} <= d.keys()]
    parts += [benched(p, d) for p, d in found.items() if {"rows", "limits", "run"} <= d.keys()]
    return "\n\n".join(parts) or "_No result file yet: `make demo`, then `make docs`._"


def compared(path: Path, result: Mapping[str, Any]) -> str:
    """The table of one `foveate compare`."""
    groups = [g for g in result["groups"] if g != "overall"]
    rows = []
    for run in result["runs"]:
        low, high = run["interval"]["overall"]
        keep = run["keep"] if isinstance(run["keep"], int) else f"{run['keep']:.4g}"
        rows.append(
            (
                f"`{run['method']}`",
                keep,
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
    """The table of one `foveate bench`."""
    rows = []
    for name, limit in result["limits"].items():
        what, judged = LIMITS[name]
        wall = limit["wall"]
        span = f"{wall['low']:.3f}–{wall['high']:.3f}"
        by = "median" if judged == "median" else "lower bound"
        rows.append((what, f"{wall['median']:.3f} ({span})", f"{by} ≤ {limit['bar']}"))
    prompt, run = result["prompt"], result["run"]
    versions = run["versions"]
    about = (
        f"Prefill time as a ratio, {result['model']}, {prompt['visual']} visual and {prompt['text']} "
        f"text tokens: medians over {limit['pairs']} interleaved rounds, with one-sided 95 % bounds "
        f"({source(path)}, {run['device']}, {run['threads']} threads, torch {versions['torch']}, "
        f"commit {short(run['commit'])})."
    )
    return f"{about}\n\n{table(('prefill', 'measured', 'bar'), rows)}"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    head = tuple(head)
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


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
    for name, text in {"methods": methods_table(), "results": results_section()}.items():
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
