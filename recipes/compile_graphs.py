"""How many graphs torch.compile makes of a model, bare and compressed, and where they break.

python recipes/compile_graphs.py [--out results/compile-graphs.json]
"""

from __future__ import annotations

import argparse
import collections
import subprocess
import sys
import warnings
from pathlib import Path

import torch
import transformers

import foveate
from foveate import Chain, FastV, Pool, Stride, VisionZip
from foveate.keeping.provenance import dumps, write

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from families import FAMILIES, ONE, TWO  # noqa: E402

METHODS = {
    "bare": None,
    "stride": Stride(4),
    "visionzip": VisionZip(8),
    "fastv": FastV(0.25, layer=2),
    "pool": Pool(2, layer=3),
    "chain": Chain(VisionZip(8), FastV(0.5, layer=2), Pool(2, layer=3)),
}


def place(text: str) -> str:
    """The line of foveate, torch or transformers that a break's stack ends at."""
    for package in ("foveate", "transformers", "torch"):
        mark = f"/{package}/"
        if mark in text:
            return package + "/" + text.rpartition(mark)[2]
    return text


def explain(model, inputs) -> dict:
    """Graphs, and the reasons of breaks with their number, most frequent first."""
    torch._dynamo.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch._dynamo.explain(model)(**inputs)
    reasons = collections.Counter()
    for breaking in found.break_reasons:
        frame = breaking.user_stack[-1] if breaking.user_stack else None
        where = f"{place(frame.filename)}:{frame.name}" if frame else "?"
        reasons[f"{where}: {str(breaking.reason).splitlines()[0]}"] += 1
    return {
        "graphs": found.graph_count,
        "breaks": found.graph_break_count,
        "ops": found.op_count,
        "reasons": dict(reasons.most_common()),
    }


def measure(family) -> dict:
    """For each method, what becomes of a batch of two prompts with three images."""
    rows = {}
    for name, method in METHODS.items():
        model = family.model()
        if method is not None:
            foveate.compress(model, method)
        rows[name] = explain(model, family.inputs((ONE, TWO)))
        print(f"{family.name} {name}: {rows[name]['graphs']} graphs", file=sys.stderr)
        foveate.restore(model)
    return rows


def commit() -> str:
    """The commit, with a + if files differ from it."""
    called = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    return subprocess.run(
        called, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "compile-graphs.json")
    parser.add_argument("--families", default="llava", help="names, separated by commas")
    given = parser.parse_args()
    result = {
        "command": f"python recipes/compile_graphs.py --families {given.families}",
        "commit": commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "families": {name: measure(FAMILIES[name]) for name in given.families.split(",")},
    }
    write(given.out, dumps(result))


if __name__ == "__main__":
    main()
