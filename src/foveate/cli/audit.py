"""`foveate audit`: what a method breaks, on your own pictures and questions, with labels or without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import arguments, models, output, values
from foveate.cli import questions as asking
from foveate.cli.ask import AsJson, Attention, Device, Dropped, Model, New, Protocol
from foveate.cli.compare import Batch, Seed
from foveate.cli.opening import Opened, opened
from foveate.cli.scenes import panels
from foveate.cli.work import alone, done, folder, plan, work
from foveate.cli.wrong import Wrong
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.evaluate.plans import Plan
    from foveate.evaluate.work import Work

LIMIT, USUAL, FORMAT = 220, "divprune", 1


def audit(
    model: Model = models.EMBEDDED,
    task: asking.Asked = "patchqa",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods with commas; see `foveate methods`.",
            show_default="divprune, or as the model was saved",
        ),
    ] = None,
    keeps: Annotated[str, typer.Option(help="Budgets with commas.")] = "0.25,0.0625",
    limit: asking.limited(LIMIT) = None,
    out: Annotated[
        Path, typer.Option(**values.PATH, help="Folder for audit.json and audit.html.")
    ] = Path("out/audit"),
    scenes: Annotated[
        int, typer.Option(min=0, max=values.MOST_SCENES, help="Changed answers drawn of each row.")
    ] = 3,
    seed: Seed = 0,
    batch_size: Batch = 32,
    max_new_tokens: New = 8,
    device: Device = "auto",
    protocol: Protocol = None,
    dropped: Dropped = None,
    attention: Attention = None,
    metric: asking.Metric = "none",
    columns: asking.Columns = None,
    images: asking.Images = None,
    outside: asking.Outside = False,
    skip: asking.Skip = False,
    json: AsJson = False,
) -> None:
    """Hold methods against the same model with all tokens: which answers change, how, and where it shows."""
    asking.named(task)
    models.check_protocol(protocol)
    switches = models.switches(dropped=dropped, attention=attention)
    mine = asking.own(metric, columns, images, outside, skip)
    asked = None if methods is None else plan(methods, keeps)
    with alone(folder(out), "audit"), output.answering() as emit:
        output.hush()
        questions = asking.taken(task, limit, LIMIT, seed, mine)
        trust = [one.spec.slug for one in asked[0] if one.spec is not None] if asked else []
        start = opened(model, device, protocol, trust=trust, switches=switches)
        job = work(start.loaded, questions, seed, batch_size, max_new_tokens, False, out)
        plans = _plans(start, asked, keeps)
        runs = done(job, plans)
        if not Ranks.here().first:
            return
        document, page = _audited(job, plans, runs, scenes)
        if json:
            emit({**document, "page": str(page)})
    for line in [] if json else (*_said(document), f"page: {page}"):
        output.say(line)


def _plans(start: Opened, asked: tuple[list[Plan], list] | None, keeps: str) -> list[Plan]:
    """The full model, and what is held against it: what was asked for, else the model as it was saved.

    Raises Wrong where nothing is left.
    """
    from foveate.core.spec import named
    from foveate.evaluate.plans import fitting, spread

    own = "identity" if start.saved is not None else USUAL
    plans, skipped = asked or plan(own, keeps)
    plans, unfit = fitting(start.loaded, plans)
    for skip in skipped + unfit:
        output.note(f"left out: {named(skip['method'], skip['keep'])}: {skip['why']}")
    if start.saved is not None and asked is None:
        saved = spread(start.saved, arguments.budgets(keeps, []))
        plans += [one._replace(trained=None) for one in saved]
    if len(plans) == 1:
        raise Wrong("nothing to audit: say which methods with --methods, such as divprune")
    start.tell(plans)
    return plans


def _audited(
    job: Work, plans: list[Plan], runs: list[dict[str, Any]], scenes: int
) -> tuple[dict[str, Any], Path]:
    """The document, and where the page about it is; both are written."""
    from foveate.audit import audit, page
    from foveate.keeping.provenance import dumps, record, sealed, write

    with models.asked(job.loaded):
        document = audit(job, plans, runs)
        drawn = _scenes(job, plans, runs, document["rows"], scenes)
    told = {"format": FORMAT, **document, "circumstances": record(job.seed)}
    write(job.out / "audit.json", dumps(sealed(told)))
    return document, write(job.out / "audit.html", page(document, drawn))


def _scenes(
    job: Work, plans: list[Plan], runs: list[dict[str, Any]], rows: list[dict[str, Any]], most: int
) -> list[tuple[str, list[Any]]]:
    """Of each row the answers that changed most: the picture whole, and what was kept of it."""
    from foveate.chat.pictures import is_video
    from foveate.evaluate.report import Scene

    at, found = {one.key: one for one in job.examples}, []
    for row, one, run in zip(rows, plans[1:], runs[1:], strict=True):
        some = [at[key] for key in row["flipped"]]
        some = [e for e in some if e.images and not any(map(is_video, e.images))][:most]
        if some:
            sides = zip(
                panels(job, plans[0], runs[0], some), panels(job, one, run, some), strict=True
            )
            called = row["name"] if row["keep"] is None else f"{row['name']} {row['keep']}"
            told = [
                Scene(e.question, e.answer or "", e.kind or "", side)
                for e, side in zip(some, sides, strict=True)
            ]
            found.append((called, told))
    return found


def _said(document: dict[str, Any]) -> list[str]:
    """The rows in words."""
    lines = []
    for row in document["rows"]:
        flips, keep = row["flips"], "" if row["keep"] is None else f" {row['keep']}"
        low, high = flips["interval"]
        line = (
            f"{row['name']}{keep}: {row['tokens']:.4g} tokens, {flips['share']:.1%} of {flips['n']:,} "
            f"answers changed ({low:.1%} to {high:.1%})"
        )
        if document["labels"]:
            line += (
                f", {row['broke']['count']} for the worse, {row['mended']['count']} for the better"
            )
        lines.append(line)
    return lines
