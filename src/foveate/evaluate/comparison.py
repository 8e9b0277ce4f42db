"""Many runs side by side: the document that `compare --json` prints and the report is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from foveate.evaluate.results import USUAL
from foveate.evaluate.score import OVERALL

BARE = "identity"
LOWER = ("downsample", "blind", "oracle")  # no methods: see foveate.evaluate.baselines
COLUMNS = (
    "method",
    "keep",
    "untrained",
    "tokens",
    "tokens_before",
    "accuracy",
    "interval",
    "kinds",
    "n",
)
# Which not every result has: of bare models, of tasks whose kinds weigh the same, of most metrics.
SHARES = ("steps", "share", "layer_share", "scored", "more")


def comparison(
    runs: Sequence[Mapping[str, Any]],
    skipped: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """One document of several runs on the same task, the bare model first.

    The first run's model is the one that is compared; runs of others are of models trained with a method.
    skipped lists {"method", "keep", "why"}: budgets that were asked for and could not be had. notes are
    sentences that readers of the numbers need.
    """
    job = runs[0]["job"]
    return {
        "model": job["model"],
        "task": job["task"],
        "metric": job.get("metric", USUAL["metric"]),
        "protocol": job.get("protocol"),
        "dropped": _told(runs, "dropped"),
        "attention": _told(runs, "attention"),
        "n": runs[0]["n"],
        "seed": job["seed"],
        "groups": list(runs[0]["accuracy"]),
        "runs": [_row(run, job["model"]) for run in runs],
        "skipped": list(skipped),
        "notes": list(notes),
        "circumstances": runs[0]["circumstances"],
    }


def _told(runs: Sequence[Mapping[str, Any]], switch: str) -> str:
    """What `compress` was told of every method; of several words, all."""
    jobs = (run["job"] for run in runs if run["job"]["method"] not in (BARE, *LOWER))
    words = {job.get(switch, USUAL[switch]) for job in jobs}
    return " or ".join(sorted(words or {USUAL[switch]}))


def called(job: Mapping[str, Any], compared: str) -> str:
    """What people read of a run: the bare model, a method on it, or another model as it was trained."""
    if job["model"] != compared:
        return f"{job['model']} (trained)"
    if job["method"] == BARE:
        return "uncompressed"
    return f"{job['method']} (untrained)" if job["untrained"] else job["method"]


def _row(run: Mapping[str, Any], compared: str) -> dict[str, Any]:
    """What tables and curves need of one run."""
    return {
        "model": run["job"]["model"],
        "name": called(run["job"], compared),
        **{name: run[name] for name in COLUMNS},
        **{name: run[name] for name in SHARES if name in run},
        "compressor": run["job"]["compressor"],
        "cost": run["cost"],
        "prefill": run["prefill"],
        "seconds": run["seconds"],
    }


def tokens(run: Mapping[str, Any]) -> float:
    """Where a run stands on the axis: methods that act late count the layers that saw every token."""
    return run["cost"].get("equivalent_tokens", run["tokens"])


def of_bare(document: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether a run is of the compared model as it is, all tokens kept."""
    return run["method"] == BARE and run["model"] == document["model"]


def of_trained(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of other models than the compared one, by model, fewest tokens first."""
    return _sorted(run for run in document["runs"] if run["model"] != document["model"])


def series(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The compared model's runs of each method as it is called, fewest tokens first."""
    of_ours = (run for run in document["runs"] if run["model"] == document["model"])
    return _sorted(run for run in of_ours if run["method"] not in (BARE, *LOWER))


def lower(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each baseline that is no method, fewest tokens first."""
    return _sorted(run for run in document["runs"] if run["method"] in LOWER)


def _sorted(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["name"], []).append(run)
    return {name: sorted(some, key=tokens) for name, some in found.items()}


def best(document: Mapping[str, Any]) -> dict[Any, dict[str, float]]:
    """The highest accuracy of each group at each budget, of the compared model's methods: by keep."""
    found: dict[Any, dict[str, float]] = {}
    for run in (run for runs in series(document).values() for run in runs):
        if run["keep"] is not None:
            at = found.setdefault(run["keep"], {})
            for group, share in run["accuracy"].items():
                at[group] = max(share, at.get(group, 0.0))
    return found


def showed(document: Mapping[str, Any]) -> list[str]:
    """What the comparison showed: for each number of tokens the best of several, and who is as good.

    As good is whose interval reaches into that of the best.
    """
    ours = [r for r in document["runs"] if not of_bare(document, r) and r["method"] not in LOWER]
    every = [run for run in ours if not run["untrained"]]
    (bare,) = (run for run in document["runs"] if of_bare(document, run))
    whole, lines = 100 * bare["accuracy"][OVERALL], []
    for count in sorted({round(run["tokens"]) for run in every}, reverse=True):
        rows = [run for run in every if round(run["tokens"]) == count]
        first, *rest = sorted(rows, key=lambda run: -run["accuracy"][OVERALL])
        low = first["interval"][OVERALL][0]
        near = [run["name"] for run in rest if run["interval"][OVERALL][1] >= low]
        if rest:
            lines.append(
                f"{count} of {first['tokens_before']:.4g} tokens: {first['name']} has "
                f"{100 * first['accuracy'][OVERALL]:.1f} % right, all tokens {whole:.1f} %; "
                + (
                    f"not told apart from it: {', '.join(near)}."
                    if near
                    else "no other comes near."
                )
            )
    return lines
