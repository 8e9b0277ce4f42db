"""`foveate compare`: methods × budgets on a task; a table, result files and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.cli import arguments, output, values
from foveate.cli import questions as asking
from foveate.cli.opening import Opened
from foveate.cli.opening import trained as those_trained
from foveate.cli.scenes import scenes as drawn
from foveate.cli.scenes import shown_budget
from foveate.cli.shared import Asking, sharing
from foveate.cli.tables import more, table
from foveate.cli.work import alone, described, done, folder, plan
from foveate.cli.wrong import Wrong
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.evaluate.plans import Plan
    from foveate.evaluate.work import Work

BASELINES = "downsample,blind,oracle"
METHODS = "random,stride,pool,fastv,visionzip,divprune"
KEEPS = "0.5,0.25,0.125"
LIMIT = 440


@sharing
def compare(
    asked: Asking,
    methods: Annotated[str, typer.Option(help=arguments.METHODS_HELP)] = METHODS,
    keeps: Annotated[
        str, typer.Option(help="Budgets with commas: shares such as 0.25, or tokens.")
    ] = KEEPS,
    trained: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="Models with commas that were saved with their compressor: rows of their own, as saved. "
            "Beside the embedded model, if not given, those that were trained from it; '' for none.",
        ),
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            help="What has to be beaten, with commas: a smaller picture (downsample), a grey one (blind), "
            "what is asked about first (oracle); '' for none."
        ),
    ] = BASELINES,
    limit: asking.limited(LIMIT) = None,
    out: Annotated[
        Path, typer.Option(**values.PATH, help="Folder for result files and report.html.")
    ] = Path("out"),
    scenes: Annotated[
        int, typer.Option(min=0, max=values.MOST_SCENES, help="Scenes drawn in the report.")
    ] = 6,
    timing: Annotated[bool, typer.Option(help="Time prefill against the bare model.")] = True,
    metric: asking.Metric = "exact",
) -> None:
    """Compare methods and budgets, and models trained with one: accuracy, tokens, time and cost."""
    mine = asked.check(metric)
    (wanted, skipped), lower = plan(methods, keeps), _lower(baselines)
    with alone(folder(out), "compare"), output.answering() as emit:
        output.hush()
        questions = asking.scored(asked.questions(limit, LIMIT, mine))
        start = asked.opened(trust=[one.spec.slug for one in wanted if one.spec is not None])
        job = asked.work(start, questions, out, timing)
        rows = _rows(start, job, wanted, skipped, lower, trained, asked.device)
        plans, skipped, notes = rows
        if not Ranks.here().first:
            done(job, plans)
            return
        document, page = _compared(job, plans, skipped, notes, scenes)
        if asked.json:
            emit({**document, "report": str(page)})
    if not asked.json:
        from foveate.evaluate.comparison import showed

        screen = output.screen()
        screen.print(table(document))
        for line in (*more(document), *showed(document)):
            output.say(line)
        output.say(f"result files: {out / 'runs'}")
        output.say(f"report: {page}")


def _lower(text: str) -> list[str]:
    """The baselines that are asked for. Raises Wrong for names that are none."""
    names = arguments.listed(text)
    if wrong := [name for name in names if name not in BASELINES.split(",")]:
        raise Wrong(f"--baselines {wrong[0]}: there are {BASELINES.replace(',', ', ')}")
    return names


def _rows(
    start: Opened,
    job: Work,
    asked: list[Plan],
    skipped: list,
    lower: list[str],
    trained: str | None,
    device: str,
) -> tuple[list[Plan], list, list[str]]:
    """The runs to make, what is left out of them, and what to know of them; a person is told."""
    from foveate.core.spec import named
    from foveate.evaluate.baselines import baselines
    from foveate.evaluate.plans import budgets, fitting, spread
    from foveate.evaluate.prompts import first

    plans, unfit = fitting(start.loaded, asked, first(job.examples, job.metric))
    keeps = budgets(asked)
    low, unmade = baselines(start.loaded, lower, keeps, job.examples)
    plans, unfit = plans + low, unfit + unmade
    plans += [] if start.saved is None else spread(start.saved, keeps)
    trust = [one.spec.slug for one in asked if one.spec is not None and ":" in one.spec.slug]
    for saved in those_trained(trained, start.loaded, job.examples, device, trust):
        plans += spread(saved, keeps)
    for skip in skipped + unfit:
        output.note(f"left out: {named(skip['method'], skip['keep'])}: {skip['why']}")
    return plans, skipped + unfit, start.tell(plans)


def _compared(
    job: Work, plans: list[Plan], skipped: list, notes: list[str], scenes: int
) -> tuple[dict, Path]:
    """All runs in one document, and where the page about them is."""
    from foveate import evaluate
    from foveate.evaluate.curves import write_curves
    from foveate.evaluate.report import report
    from foveate.keeping.provenance import dumps, write

    runs = done(job, plans)
    document = evaluate.comparison(runs, skipped, notes)
    write(job.out / "compare.json", dumps(document))
    for kind in ("svg", "pdf"):
        write_curves(document, job.out / f"curves.{kind}")
    budget = shown_budget(plans)
    words = (
        "" if budget is None else f"{budget} tokens" if isinstance(budget, int) else f"{budget:.3g}"
    )
    pictures = drawn(job, plans, runs, scenes)
    page = job.out / "report.html"
    write(page, report(document, pictures, described(plans), words))
    return document, page
