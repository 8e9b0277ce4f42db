"""`foveate eval`: one model, with one method or as it was saved, on one task."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import output, values
from foveate.cli import questions as asking
from foveate.cli.ask import (
    Keep,
    Method,
    Set,
    chosen_method,
)
from foveate.cli.shared import Asking, sharing
from foveate.cli.tables import more, shares, table
from foveate.cli.work import done, folder, shared_folder
from foveate.cli.wrong import Failed, Wrong
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.core.spec import Spec
    from foveate.evaluate.plans import Plan
    from foveate.evaluate.work import Work
    from foveate.tasks.own import Own

LIMIT = 1100
# Of an answer, and what answers.jsonl calls it.
TOLD = {name: name for name in ("id", "question", "before", "after", "seconds")} | {
    "prediction": "answer"
}


@sharing
def evaluate_one(
    asked: Asking,
    method: Method = None,
    keep: Keep = None,
    set_: Set = None,
    limit: asking.limited(LIMIT) = None,
    out: Annotated[
        Path | None,
        typer.Option(**values.PATH, help="Folder for the result file; it resumes there."),
    ] = None,
    timing: Annotated[bool, typer.Option(help="Time prefill against the bare model.")] = False,
    metric: asking.Metric = "exact",
    answers_only: Annotated[
        bool,
        typer.Option(
            "--answers-only",
            help="No scores: answers, tokens and times, in answers.jsonl too with --out.",
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Answer on a Ray cluster: auto is the one this machine belongs to, or a new one on it.",
        ),
    ] = None,
) -> None:
    """Evaluate one model, with one method or as it was saved, on one task."""
    from foveate import evaluate

    if answers_only and metric != "exact":
        raise Wrong(f"--metric {metric} with --answers-only: answers alone have no score")
    mine = asked.check("none" if answers_only else metric)
    spec = chosen_method(method, keep, set_ or [], climbs=True)
    shared_folder(out)
    if out is not None:
        folder(out)
    made = functools.partial(ready, asked, mine, limit, spec, keep, set_ or [])
    with output.answering() as emit:
        job, one, told = made()
        for remark in told:
            output.note(remark)
        job = replace(
            job, timing=timing, out=out, elsewhere=None if ray is None else _cluster(made, ray)
        )
        try:
            runs = done(job, [one])
        except ImportError as error:
            raise Failed(str(error)) from error
        write = answers_only and out is not None and Ranks.here().first
        written = _answers(runs[0], out) if write else None
        if asked.json:
            emit(runs[0])
    if not asked.json:
        document = evaluate.comparison(runs)
        output.screen().print(table(document))
        for line in (*(_rungs(runs[0]) or shares(runs[0])), *more(document)):
            output.say(line)
        if written is not None:
            output.say(f"answers: {written}")


def ready(
    asked: Asking,
    mine: Own,
    limit: int | None,
    spec: Spec | None,
    keep: str | None,
    pairs: list[str],
) -> tuple[Work, Plan, list[str]]:
    """The work, the run, and what to know of it: here, and in every worker of a cluster.

    mine: how one's own questions are read. Raises Wrong.
    """
    from foveate.evaluate.plans import fitting, remarks

    output.hush()
    questions = asked.questions(limit, LIMIT, mine)
    questions = questions if mine.metric == "none" else asking.scored(questions)
    start = asked.opened(spec, keep, pairs)
    fit, unfit = fitting(start.loaded, [start.plan])
    if unfit:
        raise Wrong(unfit[0]["why"])
    told = remarks(start.loaded.name, fit, start.saved)
    return asked.work(start, questions, None), fit[0], told


def _rungs(run: dict[str, Any]) -> list[str]:
    """Where the answers of a ladder are from; nothing of a budget alone."""
    if (ladder := run["job"].get("ladder")) is None:
        return []
    found = Counter(answer["rung"] for answer in run["answers"].values())
    told = ", ".join(f"{found[keep] / run['n']:.0%} at {keep}" for keep in ladder["keeps"])
    return [
        f"answered up a ladder: {told}; tokens and arithmetic are those of all rungs on the way"
    ]


def _cluster(made: Any, address: str) -> Any:
    """A Ray cluster whose workers open the same by themselves; paths are told whole."""
    from foveate.evaluate.cluster import Cluster

    asked, *rest = made.args
    there = {n: _whole(getattr(asked, n)) for n in ("model", "task")}
    return Cluster(functools.partial(ready, replace(asked, **there), *rest), address)


def _whole(name: str) -> str:
    """A path from the root; any other name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _answers(run: dict[str, Any], out: Path) -> Path:
    """Every answer of a run, a line each: the question's number and id, what it cost."""
    import json

    from foveate.keeping.provenance import write

    lines = [
        json.dumps(
            {
                "key": key,
                **{called: one.get(name) for name, called in TOLD.items()},
                **{name: one[name] for name in ("rung",) if name in one},
            },
            ensure_ascii=False,
        )
        for key, one in run["answers"].items()
    ]
    return write(out / "answers.jsonl", "\n".join(lines) + "\n")
