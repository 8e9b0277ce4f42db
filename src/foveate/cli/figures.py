"""`foveate draw scales` and `foveate draw guidance`: figures over a task, and the numbers in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import arguments, listings, models, output, pictures, sweeps, values
from foveate.cli import questions as asking
from foveate.cli.ask import AsJson, Device, Keep, Method, Model, New, Set, attach, chosen_method
from foveate.cli.opening import opened
from foveate.cli.shared import Batch, Seed
from foveate.cli.work import folder, shared_folder, work
from foveate.cli.wrong import Wrong
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.evaluate.plans import Loaded
    from foveate.tasks.own import Task

HOME = Path("out")  # where pictures go that were given no name
KINDS = (".svg", ".png", ".pdf")
SIZED, GUIDED = 100, 220  # questions, unless told
MOST = 8  # layers that a sweep runs, unless told

Figure = Annotated[
    Path | None,
    typer.Option(
        **values.PATH,
        help=f"Draw into this file: {', '.join(KINDS)}; its numbers go beside it, into a .json.",
        show_default=f"{HOME}/<kind>.svg",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(help="Decoder layers with commas.", show_default="all, or some of many"),
]


def scales(
    model: Model = models.EMBEDDED,
    task: asking.Asked = "patchqa",
    method: Method = None,
    keep: Keep = None,
    set_: Set = None,
    limit: asking.limited(SIZED) = None,
    picture: Figure = None,
    seed: Seed = 0,
    batch_size: Batch = 32,
    device: Device = "auto",
    columns: asking.Columns = None,
    images: asking.Images = None,
    outside: asking.Outside = False,
    skip: asking.Skip = False,
    json: AsJson = False,
) -> None:
    """How many patches tokens carry over a task: shares of the tokens, and of the images."""
    asking.named(task)
    mine = asking.own("exact", columns, images, outside, skip)
    spec = chosen_method(method, keep, set_ or [])
    into = _target(picture, "scales")
    with output.answering() as emit:
        start = opened(model, device, None, spec, keep, set_ or [])
        attach(start.loaded, start.spec)
        start.tell()
        questions = asking.taken(task, limit, SIZED, seed, mine)
        document = _sizes(start.loaded, start.plan.method, questions, seed, batch_size)
        _draw("sizes", document, into)
        if json:
            emit({**document, "picture": str(into)})
    if not json:
        screen = output.screen()
        screen.print(listings.sized(document))
        output.say(f"figure: {into}")


def guidance(
    model: Model = models.EMBEDDED,
    task: asking.Asked = "patchqa",
    methods: Annotated[
        str, typer.Option(help=f"Methods that have a layer. {arguments.METHODS_HELP}")
    ] = sweeps.GUIDED,
    keep: Annotated[str, typer.Option(help="Budget of methods that were given none.")] = "0.5",
    layers: Layers = None,
    limit: asking.limited(GUIDED) = None,
    picture: Figure = None,
    out: Annotated[
        Path | None, typer.Option(**values.PATH, help="Folder for result files; it resumes there.")
    ] = None,
    seed: Seed = 0,
    batch_size: Batch = 32,
    max_new_tokens: New = 8,
    timing: Annotated[bool, typer.Option(help="Time prefill against the bare model.")] = True,
    device: Device = "auto",
    metric: asking.Metric = "exact",
    columns: asking.Columns = None,
    images: asking.Images = None,
    outside: asking.Outside = False,
    skip: asking.Skip = False,
    json: AsJson = False,
) -> None:
    """Accuracy, and a prefill against the bare model's, by the decoder layer before which tokens leave.

    What a model was saved with stays where it acts before the layers.
    """
    asking.named(task)
    mine = asking.own(metric, columns, images, outside, skip)
    specs, numbers, budget = sweeps.layered(methods), sweeps.numbers(layers), arguments.budget(keep)
    into = _target(picture, "guidance")
    shared_folder(out)
    if out is not None:
        folder(out)
    with output.answering() as emit:
        loaded = opened(model, device).loaded
        numbers = sweeps.layers(loaded, numbers, MOST)
        behind = sweeps.before(loaded.model)
        chosen = sweeps.plans(specs, budget, numbers, loaded.model, behind)
        questions = asking.scored(asking.taken(task, limit, GUIDED, seed, mine))
        job = work(loaded, questions, seed, batch_size, max_new_tokens, timing, out)
        document = sweeps.guidance(job, chosen, behind)
        _draw("guidance", document, into)
        if json:
            emit({**document, "picture": str(into)})
    if not json:
        screen = output.screen()
        screen.print(listings.guided(document))
        output.say(f"figure: {into}")


def _target(picture: Path | None, kind: str) -> Path:
    """Where the figure goes. Raises Wrong before work is spent on one that cannot be written."""
    into = pictures.writable(picture or folder(HOME) / f"{kind}.svg", KINDS)
    if (beside := into.with_suffix(".json")).is_dir():
        raise Wrong(f"--picture {into}: its numbers go into {beside}, and that is a directory")
    return into


def _draw(kind: str, document: dict[str, Any], into: Path) -> None:
    """The figure, and its numbers beside it."""
    if not Ranks.here().first:
        return
    from foveate.evaluate import charts
    from foveate.keeping.provenance import dumps, write

    {"sizes": charts.sizes_figure, "guidance": charts.guidance_figure}[kind](document, into)
    write(into.with_suffix(".json"), dumps(document))


def _sizes(loaded: Loaded, name: str, task: Task, seed: int, batch_size: int) -> dict[str, Any]:
    """What the attached compressor makes of a task's images."""
    from foveate import evaluate
    from foveate.keeping.provenance import record

    asks = [evaluate.ask(e, task.metric) for e in task.examples]
    with output.progress(len(asks), "questions") as advance:
        steps = evaluate.sizes(
            loaded.model, loaded.processor, asks, batch_size, lambda by: advance(by, name)
        )
    return {
        "model": loaded.name,
        "method": name,
        "compressor": repr(loaded.model.model.visual_compressor),
        "task": task.name,
        "n": len(asks),
        "seed": seed,
        "steps": steps,
        "circumstances": record(seed, loaded.model.device),
    }
