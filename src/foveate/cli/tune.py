"""`foveate tune`: which method, at which layer, with which budget, on questions of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import arguments, output, sweeps, values
from foveate.cli import questions as asking
from foveate.cli.opening import Opened
from foveate.cli.shared import Asking, sharing
from foveate.cli.work import alone, done, folder, tell_few
from foveate.cli.wrong import Wrong, meant
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.core.spec import Skipped, Spec
    from foveate.evaluate.plans import Plan
    from foveate.evaluate.work import Work
    from foveate.tune import Target

LIMIT = 2200
KEEPS = "0.0625,0.125,0.25,0.5"
LAYERS = 3  # of each method that has one
USUAL = 0.02


@sharing
def tune(
    asked: Asking,
    flips: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=0.5,
            help="The fewest tokens at which at most this share of the answers differs.",
            show_default=f"{USUAL}, without another target",
        ),
    ] = None,
    tokens: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=values.LARGEST,
            help="The fewest differing answers with at most so many tokens, the mean over the layers.",
        ),
    ] = None,
    prefill: Annotated[
        float | None,
        typer.Option(
            min=1e-3, max=1.0, help="The same at this share of the prefill's arithmetic at most."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=arguments.METHODS_HELP, show_default="all that need no training on this model"
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Decoder layers with commas, of methods that have one, beside its usual one.",
            show_default=f"{LAYERS}, evenly spread",
        ),
    ] = None,
    keeps: Annotated[str, typer.Option(help="Budgets with commas.")] = KEEPS,
    delta: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="How likely what is shown may be wrong.")
    ] = 0.05,
    limit: asking.limited(LIMIT) = None,
    out: Annotated[
        Path,
        typer.Option(
            **values.PATH, help="Folder for setting.json and tune.json; it resumes there."
        ),
    ] = Path("out/tune"),
) -> None:
    """Find method, layer and budget for your questions, no labels needed, and show how few answers differ."""
    from foveate.tune import tuned

    target = _target(flips=flips, tokens=tokens, prefill=prefill)
    mine = asked.check("none")
    specs, at = None if methods is None else arguments.specs(methods), sweeps.numbers(layers)
    budgets = arguments.budgets(keeps, specs or [])
    with alone(folder(out), "tune"), output.answering() as emit:
        output.hush()
        questions = asked.questions(limit, LIMIT, mine)
        start = asked.opened()
        job = asked.work(start, questions, out)
        if target.name == "flips":
            tell_few(-(-len(job.examples) // 2), target.most, delta)
        plans, skipped = _candidates(start, job, specs, at, budgets)
        with meant():
            found = tuned(job, plans, target, delta, done)
        if not Ranks.here().first:
            return
        path = found.write(out, left_out=skipped)
        if asked.json:
            emit({**found.document, "left_out": skipped, "setting": str(path)})
    for line in [] if asked.json else (*_said(found.document), f"setting: {path}"):
        output.say(line)


def _target(**typed: float | None) -> Target:
    """What is wanted. Raises Wrong for two things at once."""
    from foveate.tune import Target

    told = {name: most for name, most in typed.items() if most is not None} or {"flips": USUAL}
    if len(told) > 1:
        raise Wrong(f"{' and '.join(f'--{name}' for name in told)}: want one target")
    return Target(*next(iter(told.items())))


def _candidates(
    start: Opened,
    job: Work,
    specs: list[Spec] | None,
    numbers: list[int] | None,
    keeps: list[Any],
) -> tuple[list[Plan], list[Skipped]]:
    """The runs that this model can carry out, and what is left out. Raises Wrong where nothing is left."""
    from foveate.core.spec import crossed, named
    from foveate.evaluate.plans import BARE, Plan, fitting
    from foveate.evaluate.prompts import first
    from foveate.registry import methods, written

    every = [written.spec(slug) for slug in methods.names()] if specs is None else specs
    every = [spec for spec in every if spec.slug != BARE and (specs or not spec.settled)]
    if own := [spec.slug for spec in every if ":" in spec.slug]:
        raise Wrong(f"--methods {own[0]}: a setting names methods, and no code")
    at = sweeps.layers(start.loaded, numbers, LAYERS)
    some, skipped = crossed(_layered(every, at), keeps)
    asked = [Plan(str(spec), keep, spec) for spec, keep in some]
    fit, unfit = fitting(start.loaded, asked, first(job.examples))
    skipped += unfit
    skipped += [
        {"method": one.method, "keep": one.keep, "why": "it has weights that nobody trained"}
        for one in fit
        if one.untrained
    ]
    for skip in skipped:
        output.note(f"left out: {named(skip['method'], skip['keep'])}: {skip['why']}")
    found = [one for one in fit if not one.untrained]
    if not found:
        raise Wrong("nothing to choose from: want --methods that this model can carry out")
    start.tell(found)
    return found, skipped


def _layered(specs: Sequence[Spec], numbers: Sequence[int]) -> list[Spec]:
    """Every method as it is written, and at these layers where that is free."""
    from foveate.registry.methods import parameters

    found = []
    for spec in specs:
        own = parameters(spec.make).get("layer")
        free = own is not None and isinstance(own.default, int) and "layer" not in spec.arguments
        more = [k for k in numbers if k != own.default] if free else []
        found += [spec, *(sweeps.at(spec, k) for k in more)]
    return found


def _said(document: dict[str, Any]) -> list[str]:
    """The front and what was chosen, in words."""
    questions, ((name, most),) = document["questions"], document["target"].items()
    sure = 100 * (1 - document["delta"])
    lines = [
        f"{row['tokens']:.1f} tokens, {row['prefill']:.2f} of the prefill, {row['rate']:.1%} of answers "
        "differ ({:.1%} to {:.1%}): {}".format(*row["interval"], row["method"])
        for row in document["front"]
    ]
    lines.append(
        f"of {questions['choosing']:,} questions that it was chosen on, {sure:g} % intervals"
    )
    chosen = document["chosen"]
    if chosen is None:
        return [
            *lines,
            f"nothing with fewer tokens is shown to differ in at most {most:.1%}, so the setting keeps all: "
            "ask more questions, or allow more",
        ]
    shown = most if name == "flips" else chosen["at_most"]
    return [
        *lines,
        f"chosen: {chosen['method']}, {chosen['tokens']:.1f} tokens, {chosen['prefill']:.2f} of the prefill",
        f"{chosen['flips']} of {chosen['questions']:,} other answers differ; with {sure:g} % probability at "
        f"most {shown:.1%} of all do, of questions drawn as these were",
    ]
