"""`foveate draw`: pictures of what was kept and why, and figures of a method over a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foveate.cli import figures, looks, models, output, pictures, sweeps, values
from foveate.cli.ask import (
    AsJson,
    Device,
    Keep,
    Method,
    Model,
    New,
    Protocol,
    Set,
    answer,
    ask,
    worded,
)
from foveate.cli.command import Command
from foveate.cli.figures import HOME, Layers
from foveate.cli.opening import opened
from foveate.cli.work import folder
from foveate.cli.wrong import Wrong, unknown

MOST = 15  # layers that are shown, unless told

Image = Annotated[Path, typer.Argument(help="An image file.")]
Question = Annotated[str, typer.Argument(help="What to ask about it.")]
Picture = Annotated[
    Path | None,
    typer.Option(**values.PATH, help="Draw into this file.", show_default=f"{HOME}/<kind>.png"),
]


class Kinds(TyperGroup):
    """The kinds of picture; an unknown one is answered with the nearest, none with all of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What was typed; nothing is a call for help."""
        return super().parse_args(ctx, args or ["--help"])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name. Raises Wrong if there is none."""
        if cmd_name not in self.commands:
            raise unknown("kind of picture", cmd_name, self.commands)
        return self.commands[cmd_name]


draw = typer.Typer(
    cls=Kinds,
    rich_markup_mode=None,
    help="Draw what was kept and why, and figures of a method over a task.",
)


@draw.command(cls=Command)
def tokens(
    image: Image,
    question: Question,
    model: Model = models.EMBEDDED,
    method: Method = None,
    keep: Keep = None,
    set_: Set = None,
    picture: Picture = None,
    max_new_tokens: New = 64,
    device: Device = "auto",
    protocol: Protocol = None,
    json: AsJson = False,
) -> None:
    """What each step kept of an image, how many patches its tokens carry, and what it went by."""
    into = picture or folder(HOME) / "tokens.png"
    how = max_new_tokens, device, protocol
    ask(image, question, model, method, keep, set_, into, *how, json=json)


@draw.command("layers", cls=Command)
def heatmaps(
    image: Image,
    question: Question,
    model: Model = models.EMBEDDED,
    method: Annotated[
        str, typer.Option(help="The method that looks; it reads attention.")
    ] = sweeps.GUIDED,
    layers: Layers = None,
    picture: Picture = None,
    max_new_tokens: New = 64,
    device: Device = "auto",
    protocol: Protocol = None,
    json: AsJson = False,
) -> None:
    """What the question looks at, as a method sees it that stands before each decoder layer.

    Nothing is dropped there. What a model was saved with stays where it acts before the layers.
    """
    models.check_protocol(protocol)
    question, shown, numbers = worded(question), pictures.read(image), sweeps.numbers(layers)
    spec, *others = sweeps.layered(method)
    if others:
        raise Wrong(f"--method {method}: want one method")
    into = pictures.beside(picture or folder(HOME) / "layers.png", image)
    with output.answering() as emit:
        loaded = opened(model, device, protocol).loaded
        numbers = sweeps.layers(loaded, numbers, MOST)
        looks.look(loaded, spec, numbers)
        document, seen = answer(loaded, None, shown, question, max_new_tokens)
        told = looks.seen_by(seen.steps, numbers)
        sheet = looks.picture(loaded, shown, document, seen.steps, told)
        pictures.save(sheet, into)
        document = {**document, "method": str(spec), "layers": told, "picture": str(into)}
        if json:
            emit(document)
    if not json:
        output.say(document["answer"] or "(no answer)", "bold")
        output.say(f"what it looked at: {into}", "dim")


draw.command(cls=Command)(figures.scales)
draw.command(cls=Command)(figures.guidance)
