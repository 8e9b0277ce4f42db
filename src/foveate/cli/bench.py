"""`foveate bench`: what compression costs, what it saves, and how far that is from the ideal."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate import tasks
from foveate.cli import arguments, models, output, values
from foveate.cli.ask import AsJson, Device
from foveate.cli.work import folder
from foveate.cli.wrong import Failed, Wrong, unknown

if TYPE_CHECKING:
    from foveate.bench import Cell
    from foveate.core.spec import Skipped

ALIKE = "'small', 'slice' or 'llava-1.5-7b'"  # whose images are one square
MOST_VISUAL = 20_000
CALM = 1.0  # processes that run before anything is measured
DTYPES = ("auto", "float32", "bfloat16", "float16")


def bench(
    model: Annotated[
        str,
        typer.Option(
            help="'small', 'slice', 'llava-1.5-7b', 'llava-next-8b' or 'qwen2.5-vl-7b' (the real config, "
            "random weights; a slice is LLaVA-1.5-7B with few layers), 'embedded', a directory or a Hub id."
        ),
    ] = "small",
    methods: Annotated[
        str | None, typer.Option(help=f"{arguments.METHODS_HELP} All if not given.")
    ] = None,
    keeps: Annotated[str, typer.Option(help="Budgets with commas: 192 tokens, 0.25 of all.")] = (
        "0.25"
    ),
    batch_sizes: Annotated[str, typer.Option(help="Numbers of prompts, with commas.")] = "1",
    image_tokens: Annotated[
        str | None,
        typer.Option(
            help="About how many tokens an image takes, with commas: of each the nearest square (small, "
            "slice, llava-1.5-7b).",
            show_default="the model's own",
        ),
    ] = None,
    new_tokens: Annotated[
        str, typer.Option(help="Lengths of answers to time, with commas.")
    ] = "1,16,128",
    count_only: Annotated[
        bool,
        typer.Option("--count-only", help="Tokens, MACs and cache only: no weights, no clock."),
    ] = False,
    pairs: Annotated[
        int, typer.Option(min=1, max=values.MOST_ROUNDS, help="Rounds of prefills in a cell.")
    ] = 30,
    rounds: Annotated[
        int, typer.Option(min=1, max=values.MOST_ROUNDS, help="Rounds of answers in a cell.")
    ] = 5,
    training: Annotated[
        bool,
        typer.Option(
            "--training", help="Take training steps too, with and without gradient checkpointing."
        ),
    ] = False,
    cell_seconds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Methods and budgets at one image and batch size take turns, 12 at a time: give them fewer "
            "rounds, three at least, to end within about so long; leave out those that cannot.",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, or auto: as the checkpoint has it.")
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            **values.PATH,
            help="Write the result into this JSON file; a killed run goes on from there.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=values.SEEDS)] = 0,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Measure tokens, MACs, prefill, answers, memory, cache, and the distance from the ideal."""
    batches = sorted({*values.wholes("--batch-sizes", batch_sizes, most=values.MOST_PROMPTS)})
    lengths = sorted({*values.wholes("--new-tokens", new_tokens, most=values.MOST_NEW)})
    sizes = [None]
    if image_tokens is not None:
        sizes = sorted({*values.wholes("--image-tokens", image_tokens, most=MOST_VISUAL)})
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if out is not None:
        _want_file(out)
    cells, skipped = _planned(methods, keeps, batches, not count_only, sizes)
    with output.answering() as emit:
        output.hush()
        from foveate import bench as room
        from foveate.core.spec import named

        effort = (
            None
            if count_only
            else room.Effort(pairs, rounds, tuple(lengths), cell_seconds, training)
        )
        subject = _subject(model, dtype, device, seed, effort, batches[0], sizes[0])
        if effort is not None and (busy := room.load() or 0.0) > CALM:
            output.note(f"{busy:.1f} processes were running: times will be those of a busy machine")
        with output.progress(room.ticks(cells, effort), "rounds") as advance:
            try:
                result = room.bench(subject, cells, effort, out, seed, advance, skipped)
            except FileExistsError as error:
                raise Wrong(f"--out: {error}") from error
        if json:
            emit(result)
    if result["resumed"]:
        output.note(f"{result['resumed']} finished cells were read from an earlier run")
    for one in result["left_out"]:
        output.note(f"left out: {named(one['method'], one['keep'])}: {one['why']}")
    for cell in result["cells"]:
        if "untrained" in cell:
            output.note(
                f"{named(cell['method'], cell['keep'])}: {', '.join(cell['untrained'])} was never trained, "
                "and keeps all: how much it keeps is learned; arguments may fix it, as scales=[2] does"
            )
    if not json:
        from foveate.evaluate.report import si

        for part in room.tables(result, si):
            output.screen().print(part)


def _want_file(out: Path) -> None:
    """Raise Wrong before work is spent on a result that cannot be written: one line."""
    if out.is_dir() or out.name in ("", ".."):
        raise Wrong(f"--out {out}: want a file, such as {out / 'bench.json'}")
    folder(out.parent)


def _planned(
    methods: str | None, keeps: str, batches: list[int], timed: bool, sizes: list[int | None]
) -> tuple[list[Cell], list[Skipped]]:
    """The cells, and the budgets that methods lack. Raises Wrong if nothing asked for is left."""
    from foveate.registry.methods import names

    specs = arguments.specs(",".join(names()) if methods is None else methods)
    if not specs:
        raise Wrong("--methods is empty: want names with commas; see `foveate methods`")
    budgets = arguments.budgets(keeps, specs)

    from foveate.bench import BARE, plan

    cells, skipped = plan(specs, budgets, batches, timed, sizes)
    if {spec.slug for spec in specs} != {BARE} and all(c.method == BARE or c.idle for c in cells):
        raise Wrong(f"nothing to measure: {skipped[0]['method']}: {skipped[0]['why']}")
    return cells, skipped


def _subject(
    name: str, dtype: str, device: str, seed: int, effort: Any, batch: int, visual: int | None
) -> Any:
    """What is measured, with images of so many tokens. Raises Failed, with both numbers, if it is too big."""
    import torch

    from foveate import bench as room

    if name not in room.CONFIGS:
        if visual is not None:
            raise Wrong(f"--image-tokens: {name} has images of its own; want {ALIKE}")
        return _checkpoint(name, dtype, device, seed)
    named = room.CONFIGS[name]
    try:
        named = named if visual is None else room.showing(named, visual)
    except ValueError as error:
        raise Wrong(f"--image-tokens {visual}: {name}: {error}, {ALIKE}") from error
    config = named.config()
    kind = config.dtype if dtype == "auto" else getattr(torch, dtype)

    @lru_cache(maxsize=1)  # of several sizes one is in memory, beside the first
    def showing(other: int) -> Any:
        return _subject(name, dtype, device, seed, effort, batch, other)

    if effort is None:
        return room.Subject(name, paper=room.Paper(named, kind, seed), showing=showing)
    place = models.place_to_run(device)
    try:
        room.fits(named, kind, batch, max(effort.new_tokens), place)
        made = room.build(config, kind, place, seed)
    except (MemoryError, RuntimeError, AssertionError) as error:
        raise Failed(f"{name} {error} (--dtype, --batch-sizes, --device, --count-only)") from error

    def inputs(size: int) -> dict[str, Any]:
        return room.like(made, named.inputs(size, seed))

    return room.Subject(name, made, inputs, showing=showing)


def _checkpoint(name: str, dtype: str, device: str, seed: int) -> Any:
    """A model with its own weights and processor, asked the same question any number of times."""
    import torch

    import foveate
    from foveate import bench as room
    from foveate import evaluate

    try:
        loaded = models.load(name, device)
    except Wrong as error:
        if "/" in name or Path(name).exists():
            raise
        known = [*room.CONFIGS, models.EMBEDDED, "a directory", "owner/name"]
        raise unknown("model", name, known) from error
    model = foveate.restore(loaded.model)
    if dtype != "auto":
        model = model.to(getattr(torch, dtype))
    example = tasks.examples("patchqa", 1, seed)[0]

    def inputs(size: int) -> dict[str, Any]:
        asks = [(example.images, example.question)] * size
        return room.like(model, evaluate.encode(loaded.processor, asks)[0])

    return room.Subject(loaded.name, model, inputs)
