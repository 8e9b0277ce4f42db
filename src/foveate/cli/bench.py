"""`foveate bench`: what compression costs, what it saves, and how far that is from the ideal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli import arguments, models, output, tasks
from foveate.cli.ask import AsJson, Device

REFERENCE = "reference"
LIMITS = {
    "before": "prefill, tokens dropped before the language model, × a physically short prompt",
    "inside": "prefill, tokens dropped inside it, × the layer-weighted ideal",
    "idle_before": "prefill, attached before and keeping all, × the bare model",
    "idle_inside": "prefill, attached inside and keeping all, × the bare model",
}


def bench(
    model: Annotated[
        str,
        typer.Option(
            help="'reference' (random, 12 layers, 768 wide), 'embedded', a directory or a Hub id."
        ),
    ] = REFERENCE,
    methods: Annotated[
        str | None, typer.Option(help="Names with commas; all that have the budget if not given.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Budget of every method.")] = "0.25",
    pairs: Annotated[int, typer.Option(min=1, help="Rounds of the ratios to the ideal.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the table.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Write the result into this JSON file.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Measure tokens, MACs, prefill, decode, memory, cache, and the distance from the ideal."""
    slugs = _expressing(methods, arguments.budget(keep))
    with output.answering() as emit:
        output.hush()
        from foveate import bench as room
        from foveate.provenance import dumps, write

        made, inputs = _measured(model, device, seed)
        with output.progress(room.ticks(pairs, rounds), "rounds") as advance:
            budget = arguments.budget(keep)
            result = room.bench(made, inputs, slugs, budget, pairs, rounds, seed, advance)
        if out is not None:
            write(out, dumps(result))
        if json:
            emit(result)
    if not json:
        _print(result)


def _expressing(methods: str | None, keep: int | float) -> list[str]:
    """The methods asked for, or all that have this budget. Raises Wrong if one asked for has not."""
    from foveate.methods import METHODS

    if methods is not None:
        slugs = arguments.listed(methods)
        for slug in slugs:
            if slug != "identity":
                arguments.build(slug, keep)
        return slugs
    found = []
    for slug, make in METHODS.items():
        try:
            make(keep=keep)
            found.append(slug)
        except ValueError as error:
            if slug != "identity":
                output.note(f"left out: {slug} at {keep}: {error}")
    return found


def _measured(name: str, device: str, seed: int) -> tuple[Any, Any]:
    """The model that is measured, bare, and one prompt."""
    import torch

    import foveate
    from foveate import bench, evaluate

    if name == REFERENCE:
        model, inputs = bench.reference(seed)
        target = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        return model.to(target), {k: v.to(target) for k, v in inputs.items()}
    loaded = models.load(name, device)
    model = foveate.restore(loaded.model)
    example = tasks.examples("patchqa", 1, seed)[0]
    inputs = evaluate.encode(loaded.processor, [(example.images, example.question)]).to(
        model.device
    )
    return model, {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def _print(result: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from foveate.evaluate.report import si

    prompt = result["prompt"]
    title = f"{result['model']}: {prompt['visual']} visual + {prompt['text']} text columns"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("method", style="bold")
    heads = ("tokens", "mean over\nlayers", "MACs", "of them\nscorer", "prefill", "prefill\n× bare")
    for head in (*heads, "decode\nper token", "KV", "peak"):
        table.add_column(head, justify="right")
    for row in result["rows"]:
        table.add_row(
            row["method"],
            str(row["tokens"]),
            f"{row['equivalent_tokens']:.4g}",
            si(row["macs"]["total"]),
            si(row["macs"]["scorer"]),
            f"{1000 * row['prefill_s']['median']:.1f} ms",
            f"{row['prefill_ratio']['wall']['median']:.2f}",
            f"{1000 * row['decode_s_per_token']['median']:.1f} ms",
            f"{si(row['kv_bytes'])}B",
            f"{si(row['peak_bytes'])}B",
        )
    screen = output.screen()
    screen.print(table)
    for name, what in LIMITS.items():
        if found := result["limits"].get(name):
            wall = found["wall"]
            span = (
                f"{wall['median']:.3f} ({wall['low']:.3f}–{wall['high']:.3f}), bar {found['bar']}"
            )
            screen.print(f"{what}: {span}", markup=False)
