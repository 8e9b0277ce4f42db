"""`foveate audit`: what fewer tokens change beside the same model with all, on your own pictures too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import arguments, output, values
from foveate.cli import questions as asking
from foveate.cli.opening import Opened
from foveate.cli.scenes import panels_of
from foveate.cli.shared import Asking, sharing
from foveate.cli.work import alone, done, folder, plan
from foveate.cli.wrong import Wrong
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.evaluate.plans import Plan
    from foveate.evaluate.work import Work

LIMIT = 440
METHODS, KEEPS = "divprune,pool,fastv", "0.25,0.0625"


@sharing
def audit(
    asked: Asking,
    methods: Annotated[
        str | None,
        typer.Option(
            help=arguments.METHODS_HELP, show_default=f"the one it was saved with, or {METHODS}"
        ),
    ] = None,
    keeps: Annotated[
        str | None,
        typer.Option(
            help="Budgets with commas: shares such as 0.25, or tokens.",
            show_default=f"as saved, or {KEEPS}",
        ),
    ] = None,
    limit: asking.limited(LIMIT) = None,
    out: Annotated[
        Path, typer.Option(**values.PATH, help="Folder for audit.html; it resumes there.")
    ] = Path("out/audit"),
    examples: Annotated[
        int, typer.Option(min=0, max=values.MOST_SCENES, help="Changed answers drawn of each run.")
    ] = 4,
    metric: Annotated[
        str | None,
        typer.Option(
            help="How answers are scored, where there are labels to go by; see `foveate eval`.",
            show_default="exact; none for your own questions",
        ),
    ] = None,
) -> None:
    """Show which answers fewer tokens change, how sure both are, and where tokens are kept."""
    from foveate.tasks.own import is_own

    mine = asked.check(metric or ("none" if is_own(asked.task) else "exact"))
    with alone(folder(out), "audit"), output.answering() as emit:
        output.hush()
        questions = asked.questions(limit, LIMIT, mine)
        start = asked.opened()
        job = asked.work(start, questions, out)
        plans, skipped = _plans(start, job, methods, keeps)
        runs = done(job, plans)
        if not Ranks.here().first:
            return
        document, page = _audited(job, plans, runs, examples, start.tell(plans), skipped)
        if asked.json:
            emit({**document, "report": str(page)})
    for line in [] if asked.json else (*_said(document), f"report: {page}"):
        output.say(line)


def _plans(
    start: Opened, job: Work, methods: str | None, keeps: str | None
) -> tuple[list[Plan], list[Any]]:
    """All tokens first; then the methods at their budgets, or what the model was saved with. Raises Wrong."""
    from foveate.core.spec import named
    from foveate.evaluate.plans import BARE, Plan, fitting, spread
    from foveate.evaluate.prompts import first

    if methods is None and start.saved is not None:
        rungs = start.saved.how.get("ladder", {}).get("keeps", [])
        budgets = arguments.budgets(keeps or "", []) or [keep for keep in rungs if keep != 1.0]
        each = [start.saved.at(keep=k) for k in budgets] if rungs else spread(start.saved, budgets)
        asked, skipped = [Plan(BARE, 1.0), *(one._replace(trained=None) for one in each)], []
    else:
        asked, skipped = plan(methods or METHODS, keeps or KEEPS)
    plans, unfit = fitting(start.loaded, asked, first(job.examples, job.metric))
    for skip in (skipped := skipped + unfit):
        output.note(f"left out: {named(skip['method'], skip['keep'])}: {skip['why']}")
    if len(plans) < 2:
        raise Wrong("no method is left to audit")
    return plans, skipped


def _audited(
    job: Work,
    plans: list[Plan],
    runs: list[dict[str, Any]],
    most: int,
    notes: list[str],
    skipped: list[Any],
) -> tuple[dict[str, Any], Path]:
    """The document, and where the page about it is."""
    from foveate import audit
    from foveate.keeping.provenance import dumps, sealed, write

    with output.progress(len(job.examples) * len(plans), "looking") as advance:
        looks, why = audit.looks(job, plans, runs, lambda by: advance(by, "looking"))
    labelled = job.metric.name != "none"
    document = audit.audit(job.examples, runs, looks, labelled, why, notes, skipped)
    write(job.out / "audit.json", dumps(sealed(document)))
    page = job.out / "audit.html"
    write(page, audit.page(document, _flipped(job, plans, runs, most)))
    return document, page


def _flipped(job: Work, plans: list[Plan], runs: list[dict[str, Any]], most: int) -> list[Any]:
    """The first changed answers of each run, a picture each, with what both kept and said."""
    from foveate.audit import Flipped, changed, lost
    from foveate.chat.pictures import is_video

    found = []
    for row, (one, run) in enumerate(zip(plans[1:], runs[1:], strict=True), 1):
        keys = {*changed(runs[0], run)}
        some = [e for e in job.examples if e.key in keys and not any(map(is_video, e.images))][
            :most
        ]
        sides = [
            panels_of(job, *side, some, maps=False) if some else []
            for side in ((plans[0], runs[0]), (one, run))
        ]
        for example, whole, fewer in zip(some, *sides, strict=True):
            answer = None if job.metric.name == "none" else example.answer
            gone = lost(whole.prediction, fewer.prediction)
            found.append(Flipped(row, example.question, answer, whole, fewer, gone))
    return found


def _said(document: dict[str, Any]) -> list[str]:
    """The same in a line for each run."""
    n, rows = document["n"], document["rows"][1:]
    lines = []
    for row in rows:
        low, high = (100 * end for end in row["flips"]["interval"])
        scored = f"; {row['worse']} worse, {row['better']} better" if document["labelled"] else ""
        changed = f"{row['flips']['share']:.1%} of {n:,} answers change ({low:.0f}–{high:.0f})"
        at = "" if row["keep"] is None else f" {row['keep']}"
        lines.append(f"{row['name']}{at}: {row['tokens']:.4g} tokens, {changed}{scored}")
    return lines
