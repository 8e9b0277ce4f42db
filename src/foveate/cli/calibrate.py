"""`foveate calibrate`: a budget for each question, and a bound on how many answers it changes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import arguments, output, values
from foveate.cli import questions as asking
from foveate.cli.ask import (
    Method,
    chosen_method,
)
from foveate.cli.opening import Opened
from foveate.cli.shared import Asking, sharing
from foveate.cli.work import alone, done, folder, tell_few
from foveate.cli.wrong import Wrong
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.core.spec import Spec
    from foveate.evaluate.plans import Plan
    from foveate.evaluate.work import Work
    from foveate.ladder import Ladder

LIMIT = 1100
KEEPS, USUAL = "0.0625,0.125,0.25,0.5", "divprune"


@sharing
def calibrate(
    asked: Asking,
    method: Method = None,
    keeps: Annotated[str, typer.Option(help="The ladder's budgets with commas.")] = KEEPS,
    risk: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Answers that may differ, as a share.")
    ] = 0.02,
    delta: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="How likely the bound may be wrong.")
    ] = 0.05,
    limit: asking.limited(LIMIT) = None,
    out: Annotated[
        Path, typer.Option(**values.PATH, help="Folder for ladder.json; it resumes there.")
    ] = Path("out/ladder"),
    save: Annotated[
        Path | None,
        typer.Option(**values.PATH, help="Save the model with its ladder into this folder."),
    ] = None,
) -> None:
    """Find when to look again: few tokens for each question, more in doubt, no labels needed."""
    mine = asked.check("none")
    spec = None if method is None else chosen_method(method, None, [])
    with alone(folder(out), "calibrate"), output.answering() as emit:
        output.hush()
        questions = asked.questions(limit, LIMIT, mine)
        start = asked.opened(spec)
        if spec is None and start.saved is None:
            spec = chosen_method(USUAL, None, [])
        plans = _plans(start, spec, arguments.budgets(keeps, []))
        job = asked.work(start, questions, out)
        tell_few(len(job.examples), risk, 2 * delta / (len(plans) * (len(plans) + 1)))
        runs = done(job, plans)
        if not Ranks.here().first:
            return
        ladder, found = _ladder(job, plans, runs, spec, risk, delta)
        path = ladder.write(out / "ladder.json", found)
        if save is not None:
            _save(start, ladder, folder(save, "--save"))
        if asked.json:
            emit({**asdict(ladder), **found, "ladder": str(path)})
    for line in [] if asked.json else (*_said(ladder, found), f"ladder: {path}"):
        output.say(line)


def _plans(start: Opened, spec: Spec | None, keeps: list[Any]) -> list[Plan]:
    """All tokens, then the ladder from its foot. Raises Wrong for a method without a ladder."""
    from foveate.evaluate.plans import BARE, Plan, fitting, spread

    if spec is not None:
        asked = [Plan(str(spec), keep, spec) for keep in keeps]
    elif start.saved is not None and start.saved.compressor.elastic:
        asked = [one._replace(trained=None) for one in spread(start.saved, keeps)]
    else:
        raise Wrong("say which with --method: the model was saved with one for a single budget")
    fit, unfit = fitting(start.loaded, [Plan(BARE, 1.0), *asked])
    if unfit:
        raise Wrong(f"{unfit[0]['method']} at {unfit[0]['keep']}: {unfit[0]['why']}")
    return fit


def _ladder(
    job: Work,
    plans: list[Plan],
    runs: list[dict[str, Any]],
    spec: Spec | None,
    risk: float,
    delta: float,
) -> tuple[Ladder, dict[str, Any]]:
    """The ladder with its threshold, and what came of the questions on it and at each budget alone."""
    from foveate.ladder import Ladder, Rungs, calibrated

    (full, told), *rest = zip(plans, runs, strict=True)
    rest.sort(key=lambda one: one[1]["tokens"])
    rungs = Rungs.of([*(run for _, run in rest), told])
    way, keeps = calibrated(rungs, risk, delta), [*(one.keep for one, _ in rest), full.keep]
    ladder = Ladder(
        method=rest[0][0].method,
        saved=spec is None,
        keeps=tuple(keeps[way.first : way.last + 1]),
        threshold=way.threshold,
        risk=risk,
        delta=delta,
        n=len(rungs),
        task=job.task,
        examples=told["job"]["examples"],
        model=told["job"]["model"],
        fingerprint=told["job"]["fingerprint"],
        switches=dict(rest[0][0].how),
    )
    walk = rungs.walk(way)
    alone = zip(keeps, rungs.tokens.mean(0).tolist(), rungs.differs.sum(0).tolist(), strict=True)
    return ladder, {
        "differ": int(walk.differs.sum()),
        "tokens": float(walk.tokens.mean()),
        "answered": {str(keep): int((walk.rung == n).sum()) for n, keep in enumerate(keeps)},
        "alone": {str(keep): {"tokens": t, "differ": d} for keep, t, d in alone},
    }


def _save(start: Opened, ladder: Ladder, path: Path) -> None:
    """The model, its processor and its ladder in one folder."""
    from foveate.hosts import attach

    model = start.loaded.model
    if ladder.saved:
        attach.compress(model, start.saved.compressor)
    ladder.compress(model).save_pretrained(path)
    start.loaded.processor.save_pretrained(path)


def _said(ladder: Ladder, found: dict[str, Any]) -> list[str]:
    """The same in words."""
    n, sure = ladder.n, 100 * (1 - ladder.delta)
    lines = [
        f"keep {keep} alone: {one['tokens']:.1f} tokens, {one['differ'] / n:.1%} of {n:,} answers differ"
        for keep, one in found["alone"].items()
    ]
    if ladder.keeps == (1.0,):
        return [
            *lines,
            f"nothing with fewer tokens is shown to differ in at most {ladder.risk:.1%}: ask more questions, "
            "or allow more",
        ]
    answered = {str(keep): found["answered"][str(keep)] for keep in ladder.keeps}
    way = ", ".join(f"{many / n:.0%} at {keep}" for keep, many in answered.items())
    if len(answered) > 1:
        lines.append(
            f"climb while the first token has more than {ladder.threshold:.3g} nats of entropy"
        )
    return [
        *lines,
        f"answered: {way}",
        f"{found['tokens']:.1f} tokens of an image on the whole way, {found['differ'] / n:.1%} differ",
        f"with {sure:g} % probability at most {ladder.risk:.1%} of all answers differ, of questions drawn as "
        "these were",
    ]
