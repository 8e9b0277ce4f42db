"""What `compare` and its like share: the plan as typed, the folder, the runs with a bar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import arguments, methods, models, output
from foveate.cli.wrong import Wrong
from foveate.keeping.held import held, sweep
from foveate.keeping.shared import Ranks

if TYPE_CHECKING:
    from foveate.core.spec import Skipped
    from foveate.evaluate.plans import Loaded, Plan
    from foveate.evaluate.work import Work
    from foveate.tasks.own import Task


def plan(slugs: str, keeps: str) -> tuple[list[Plan], list[Skipped]]:
    """The bare model, then every method at every budget; budgets a method does not have are skipped.

    Raises Wrong for unknown methods and arguments, and for budgets that mean nothing to any.
    """
    from foveate import evaluate

    specs = arguments.specs(slugs)
    if not specs:
        raise Wrong("--methods is empty: want names with commas; see `foveate methods`")
    bare = [spec for spec in specs if spec.slug != evaluate.plans.BARE]
    try:
        return evaluate.plans.plan(specs, arguments.budgets(keeps, bare))
    except ValueError as error:
        raise Wrong(str(error)) from error


def work(loaded: Loaded, task: Task, seed: int, *how: Any) -> Work:
    """The work on a task. how: batch size, new tokens, timing, out."""
    from foveate.evaluate.work import Work

    return Work(loaded, task.name, task.examples, seed, *how, metric=task.metric)


def done(work: Work, plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """The documents of all runs, with a bar; finished ones are read instead of repeated."""
    count = len(work.examples) * len(plans)
    with output.progress(count, "questions") as advance, models.asked(work.loaded):
        return work.runs(plans, advance)


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Be the only command of this kind in a folder; of several processes that share it, the first is it.

    What killed processes left half-written there is swept away.
    """
    if not ranks().first:
        yield
        return
    with held(path, what):
        sweep(path)
        yield


def ranks() -> Ranks:
    """Which of how many processes this is. Raises Wrong for a rank that there cannot be."""
    here = Ranks.here()
    if not 0 <= here.rank < here.of:
        raise Wrong(f"RANK={here.rank} with WORLD_SIZE={here.of}: want 0 to {here.of - 1}")
    return here


def shared_folder(out: Path | None) -> None:
    """Raise Wrong where several processes have no folder to share their answers through."""
    if out is None and (n := ranks().of) > 1:
        raise Wrong(f"{n} processes share their answers through a folder: want --out FOLDER")


def tell_few(questions: int, risk: float, delta: float) -> None:
    """Say so where so few questions cannot show a risk, whatever the answers are."""
    from foveate.evaluate.bounds import needed

    if questions < (least := needed(risk, delta)):
        output.note(
            f"{questions:,} questions show no risk of {risk:g}, even where not one answer differs: that "
            f"takes {least:,}"
        )


def folder(path: Path, option: str = "--out") -> Path:
    """The folder, made if need be. Raises Wrong if that cannot be; option: what it was given as."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise Wrong(f"{option} {path}: no folder can be made there ({why})") from error
    return path


def described(plans: Sequence[Plan]) -> dict[str, Any]:
    """What the report says of each method, as it is written; of those of trained models too."""
    from foveate.methods import METHODS

    found = {}
    for one in plans:
        slug, make = (
            (one.spec.slug, one.spec.make) if one.spec else (one.method, METHODS.get(one.method))
        )
        if one.compressor is not None and make is not None:
            found[one.method] = methods.describe(slug, make)
    return found
