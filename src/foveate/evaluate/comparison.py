"""Many runs side by side: the document that `compare --json` prints and the report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("method", "keep", "tokens", "tokens_before", "accuracy", "interval", "kinds", "n")


def comparison(
    runs: Sequence[Mapping[str, Any]], skipped: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """One document of several runs on the same model and task, the bare model first.

    skipped lists {"method", "keep", "why"}: budgets that were asked for and could not be had.
    """
    job = runs[0]["job"]
    return {
        "model": job["model"],
        "task": job["task"],
        "n": runs[0]["n"],
        "seed": job["seed"],
        "groups": list(runs[0]["accuracy"]),
        "runs": [_row(run) for run in runs],
        "skipped": list(skipped),
        "circumstances": runs[0]["circumstances"],
    }


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    """What tables and curves need of one run."""
    return {
        **{name: run[name] for name in COLUMNS},
        "compressor": run["job"]["compressor"],
        "cost": run["cost"],
        "prefill": run["prefill"],
        "seconds": run["seconds"],
    }
