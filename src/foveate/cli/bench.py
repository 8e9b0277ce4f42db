"""`foveate bench`: what compression costs, what it saves, and how far that is from the ideal."""

from __future__ import annotations

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
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if out is not None:
        _want_file(out)
    cells, skipped = _planned(methods, keeps, batches, not count_only)
    with output.answering() as emit:
        output.hush()
        from foveate import bench as room
        from foveate.core.spec import named

        effort = None if count_only else room.Effort(pairs, rounds, tuple(lengths))
        subject = _subject(model, dtype, device, seed, effort, max(batches))
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
    methods: str | None, keeps: str, batches: list[int], timed: bool
) -> tuple[list[Cell], list[Skipped]]:
    """The cells, and the budgets that methods lack. Raises Wrong if nothing asked for is left."""
    from foveate.registry.methods import names

    specs = arguments.specs(",".join(names()) if methods is None else methods)
    if not specs:
        raise Wrong("--methods is empty: want names with commas; see `foveate methods`")
    budgets = arguments.budgets(keeps, specs)

    from foveate.bench import BARE, plan

    cells, skipped = plan(specs, budgets, batches, timed)
    if {spec.slug for spec in specs} != {BARE} and all(c.method == BARE or c.idle for c in cells):
        raise Wrong(f"nothing to measure: {skipped[0]['method']}: {skipped[0]['why']}")
    return cells, skipped


def _subject(name: str, dtype: str, device: str, seed: int, effort: Any, batch: int) -> Any:
    """What is measured. Raises Failed, with the numbers, if it does not fit."""
    import torch

    from foveate import bench as room

    if name not in room.CONFIGS:
        return _checkpoint(name, dtype, device, seed)
    named = room.CONFIGS[name]
    config = named.config()
    kind = config.dtype if dtype == "auto" else getattr(torch, dtype)
    if effort is None:
        return room.Subject(name, paper=room.Paper(named, kind, seed))
    device = models.place_to_run(device)
    try:
        room.fits(named, kind, batch, max(effort.new_tokens), device)
        made = room.build(config, kind, device, seed)
    except (MemoryError, RuntimeError, AssertionError) as error:
        raise Failed(f"{name} {error} (--dtype, --batch-sizes, --device, --count-only)") from error

    def inputs(size: int) -> dict[str, Any]:
        return room.like(made, named.inputs(size, seed))

    return room.Subject(name, made, inputs)


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
