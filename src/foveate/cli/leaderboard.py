"""`foveate leaderboard`: every method on the same questions, one file a run, and two pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import arguments, models, output, values
from foveate.cli import questions as asking
from foveate.cli.ask import AsJson, Attention, Device, Dropped, Model, New
from foveate.cli.opening import opened
from foveate.cli.opening import trained as those_trained
from foveate.cli.shared import Batch, Seed
from foveate.cli.work import alone, folder, work
from foveate.cli.wrong import Wrong
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.core.spec import Spec
    from foveate.evaluate.work import Work
    from foveate.leaderboard import Entry
    from foveate.tasks.own import Task

LIMIT = 440
KEEPS = "0.5,0.25,0.125,0.0625"
ASKED = "patchqa,patchqa-tiny,patchqa-crowded"


def leaderboard(
    model: Model = models.EMBEDDED,
    asked: Annotated[
        str,
        typer.Option(
            "--tasks", help=f"With commas, of {asking.NAMES}; or files of your own questions."
        ),
    ] = ASKED,
    methods: Annotated[
        str | None,
        typer.Option(help=arguments.METHODS_HELP, show_default="all that need no training"),
    ] = None,
    keeps: Annotated[str, typer.Option(help="Budgets with commas.")] = KEEPS,
    trained: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_PATH", help="Trained models, as `compare` takes them."),
    ] = None,
    limit: asking.limited(LIMIT) = None,
    out: Annotated[
        Path, typer.Option(**values.PATH, help="Folder for one result file a run.")
    ] = Path("results/leaderboard"),
    pages: Annotated[
        Path,
        typer.Option(
            **values.PATH, help="Folder for the pages: leaderboard.md, leaderboard.svg, board.html."
        ),
    ] = Path("docs"),
    listed: Annotated[bool, typer.Option("--list", help="Name the runs and stop.")] = False,
    only_page: Annotated[
        bool, typer.Option("--page", help="Write the pages from what is there and stop.")
    ] = False,
    timing: Annotated[bool, typer.Option(help="Time prefill too.")] = True,
    seed: Seed = 0,
    batch_size: Batch = 40,
    max_new_tokens: New = 8,
    device: Device = "auto",
    dropped: Dropped = None,
    attention: Attention = None,
    metric: asking.Metric = "exact",
    columns: asking.Columns = None,
    images: asking.Images = None,
    outside: asking.Outside = False,
    skip: asking.Skip = False,
    json: AsJson = False,
) -> None:
    """Ask every method the same questions at the same budgets; only what changed is asked again."""
    from foveate.leaderboard import figures, make, missing, page

    names = [asking.named(name) for name in arguments.listed(asked)]
    mine = asking.own(metric, columns, images, outside, skip)
    switches = models.switches(dropped=dropped, attention=attention)
    specs = None if methods is None else arguments.specs(methods)
    budgets = arguments.budgets(keeps, specs or [])
    boards: list[tuple[Work, list[Entry]]] = []
    with alone(folder(out), "leaderboard"), output.answering() as emit:
        if not only_page:
            how = (seed, batch_size, max_new_tokens, timing)
            output.hush()
            some = [
                asking.scored(asking.taken(n, limit, LIMIT, seed, mine), whole=True) for n in names
            ]
            boards = _boards(model, device, some, specs, budgets, trained, how, switches)
        lacking = [(job, one) for job, every in boards for one in missing(out, every)]
        if not listed:
            with output.progress(sum(len(job.examples) for job, _ in lacking), "questions") as bar:
                make(lacking, out, bar)
            if not Ranks.here().first:
                return
            if not (found := figures.read(out)):
                raise Wrong(
                    f"--page: no run is in {out} yet: leave --page out, or say another --out"
                )
            written = page.write(found, folder(pages))
            if json:
                rows = [row.as_dict() for row in figures.rows(found)]
                emit({"rows": rows, "pages": [str(path) for path in written]})
    lines = _listed(boards, lacking) if listed else [str(path) for path in written]
    for line in [] if json and not listed else lines:
        output.say(line)


def _boards(
    model: str,
    device: str,
    some: list[Task],
    specs: list[Spec] | None,
    keeps: list[Any],
    trained: str | None,
    how: tuple[int, int, int, bool],
    switches: dict[str, str],
) -> list[tuple[Work, list[Entry]]]:
    """For each task the work on it and its runs; what there cannot be is told."""
    from foveate.core.spec import named
    from foveate.evaluate.plans import spread
    from foveate.leaderboard import entries

    start, (seed, batch, new, timing) = opened(model, device, switches=switches), how
    found = []
    for task in some:
        name, job = task.name, work(start.loaded, task, seed, batch, new, timing, None)
        others = those_trained(trained, start.loaded, job.examples, device)
        every, skipped = entries(
            job, specs, keeps, [p for one in others for p in spread(one, keeps)]
        )
        for skip in skipped:
            output.note(f"{name}, left out: {named(skip['method'], skip['keep'])}: {skip['why']}")
        found.append((job, every))
    return found


def _listed(boards: list[tuple[Work, list[Entry]]], lacking: list[tuple[Work, Entry]]) -> list[str]:
    """Every run, and whether it is there."""
    missing = {one.name for _, one in lacking}
    every = [one.name for _, some in boards for one in some]
    return [f"{'     ' if name in missing else 'done '} {name}" for name in every]
