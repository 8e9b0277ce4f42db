"""`foveate train`: pre-train and fine-tune with a method attached, from a recipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate import tasks
from foveate.cli import models, output, paths, pictures, recipes, said, values
from foveate.cli.ask import AsJson, Device
from foveate.cli.work import folder
from foveate.cli.wrong import Failed, Wrong, outside, unknown

QUIET = 60  # seconds between two lines of progress where there is no terminal


def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name; see --list.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="A field of the recipe; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(**values.PATH, help="Folder; default out/RECIPE.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Name all recipes and stop.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe and stop.")] = False,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Train a model with a method attached; killed at any moment, --resume goes on to the same result.

    On several devices: torchrun --nproc-per-node N -m foveate train …, or accelerate launch.
    """
    if list_:
        return _list(json)
    if recipe is None:
        raise Wrong("train which recipe? `foveate train --list` names them")
    card = recipes.chosen(recipe, set_ or [])
    if show:
        return _show(card, json)
    if out is None and Path(card.name).name != card.name:
        raise Wrong(f"name={card.name}: it names a folder in out/; want --out for another place")
    out = Path("out") / card.name if out is None else out
    with output.answering() as emit:
        output.hush()
        document = _trained(card, out, resume, device)
        if json:
            emit({k: v for k, v in document.items() if k != "history"} | {"out": str(out)})
    if not json:
        _print(document, out)
    return None


def _trained(card: Any, out: Path, resume: bool, device: str) -> dict[str, Any]:
    from foveate.hosts.files import Unreadable
    from foveate.train import DataError, DivergedError, run

    if card.data not in tasks.TASKS and not Path(card.data).is_file():
        raise unknown("data file or task", card.data, tasks.TASKS)
    models.place_to_run(device)
    if not said.utf8(str(out)):
        out = paths.plain(folder(out))
    place = models.place(card.model) if card.vision is None else None
    pictures.writable(folder(out) / "loss.png", option="--out")
    try:
        with _progress(card) as advance:
            return run(card, out, resume=resume, device=device, model=place, advance=advance)
    except DataError as error:
        *problems, summary = str(error).splitlines()
        print(*map(said.line, problems), sep="\n", file=sys.stderr)
        raise Wrong(summary) from error
    except Unreadable as error:
        raise Failed(str(error)) from error
    except (ValueError, FileNotFoundError) as error:
        raise Wrong(str(error)) from error
    except OSError as error:
        raise Failed(outside(error)) from error
    except (ImportError, DivergedError) as error:
        raise Failed(str(error)) from error


@contextmanager
def _progress(card: Any) -> Iterator[Any]:
    """A bar on a terminal, a line a minute elsewhere; yields advance(steps done, steps in all, what)."""
    last, done = time.monotonic(), 0

    with output.progress(None, card.name) as move:

        def advance(step: int, steps: int, now: str) -> None:
            nonlocal last, done
            move(step - done, f"{card.name} {now}", steps)
            done = step
            if not output.on_terminal() and time.monotonic() - last > QUIET:
                output.note(f"{card.name}: step {step} of {steps}, {now}")
                last = time.monotonic()

        yield advance


def _list(json: bool) -> None:
    from rich.table import Table

    from foveate.train import RECIPES

    cards = {name: make() for name, make in RECIPES.items()}
    about = {name: (make.__doc__ or "").strip().splitlines()[0] for name, make in RECIPES.items()}
    if json:
        with output.answering() as emit:
            emit([{"name": n, "about": about[n], "method": c.method} for n, c in cards.items()])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("recipe", "method", "what it is"):
        table.add_column(column, no_wrap=column == "recipe")
    for name, card in cards.items():
        table.add_row(name, str(card.method), about[name])
    output.screen().print(table)


def _show(card: Any, json: bool) -> None:
    document = card.as_dict()
    if json:
        with output.answering() as emit:
            emit(document)
        return
    for name, value in document.items():
        output.say(f"{name:<17} {value}")


def _print(document: dict[str, Any], out: Path) -> None:
    losses = [entry["loss"] for entry in document["history"] if "loss" in entry]
    line = f"{document['steps']} steps in {document['seconds']:.0f} s"
    if losses:  # none is logged in fewer steps than log_every
        tail = losses[-max(1, len(losses) // 20) :]
        line += f", loss {losses[0]:.3f} → {sum(tail) / len(tail):.3f}"
    if added := [entry["penalty"] for entry in document["history"] if "penalty" in entry]:
        line += f", of it penalty {added[0]:.3g} → {added[-1]:.3g}"
    if document.get("rows") != document.get("records"):
        line += f", {document['records']:,} records in {document['rows']:,} rows"
    if left_out := document.get("skipped", {}).get("records"):
        line += f", {left_out:,} {'record' if left_out == 1 else 'records'} left out"
    output.say(line)
    output.say(f"model: {out}")
    output.say(f"loss curve: {out / 'loss.png'}")
