"""The work behind `compare` and `eval`: plans become runs, runs become a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from foveate.cli import arguments, methods, models, output, tasks
from foveate.cli.wrong import Wrong

BARE = "identity"
TIMED, PROMPTS = 9, 4  # prefills of either model, in turn, and the prompts of each


class Plan(NamedTuple):
    """One run to make; compressor None is the bare model."""

    method: str
    keep: int | float
    compressor: Any


Skipped = dict[str, Any]  # method, keep, why


def plan(slugs: str, keeps: str) -> tuple[list[Plan], list[Skipped]]:
    """The bare model, then every method at every budget; budgets a method does not have are skipped.

    Raises Wrong for unknown methods and for budgets that mean nothing to any.
    """
    budgets = [arguments.budget(text) for text in arguments.listed(keeps)]
    makes = {slug: arguments.factory(slug) for slug in arguments.listed(slugs) if slug != BARE}
    if makes and not budgets:
        raise Wrong("--keeps is empty: want budgets with commas, such as 0.5,0.25")
    plans, skipped = [Plan(BARE, 1.0, None)], []
    for slug, make in makes.items():
        for keep in budgets:
            try:
                plans.append(Plan(slug, keep, make(keep=keep)))
            except ValueError as error:
                skipped.append({"method": slug, "keep": keep, "why": str(error)})
    if not arguments.listed(slugs):
        raise Wrong("--methods is empty: want names with commas; see `foveate methods`")
    if makes and len(plans) == 1:
        raise Wrong(f"nothing to compare: {skipped[0]['method']}: {skipped[0]['why']}")
    return plans, skipped


def fitting(model: Any, plans: Sequence[Plan]) -> tuple[list[Plan], list[Skipped]]:
    """Those plans that this model can carry out, and why not the others; the model is bare afterwards."""
    import foveate

    foveate.restore(model)
    fit, skipped = [], []
    for one in plans:
        try:
            if one.compressor is not None:
                foveate.compress(model, one.compressor)
            fit.append(one)
        except (ValueError, TypeError, NotImplementedError) as error:
            skipped.append({"method": one.method, "keep": one.keep, "why": str(error)})
        finally:
            foveate.restore(model)
    return fit, skipped


def folder(path: Path) -> Path:
    """The folder, made if need be. Raises Wrong if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Wrong(f"--out {path}: no folder can be made there ({error.strerror})") from error
    return path


@dataclass
class Work:
    """A model, a task, and how it is answered."""

    loaded: models.Loaded
    task: str
    limit: int
    seed: int
    batch_size: int
    max_new_tokens: int
    timing: bool
    out: Path | None
    examples: list[Any] = field(init=False)

    def __post_init__(self):
        self.examples = tasks.examples(self.task, self.limit, self.seed)

    def runs(self, plans: Sequence[Plan]) -> list[dict[str, Any]]:
        """The documents of all runs, in order; finished ones are read instead of repeated."""
        from foveate import evaluate

        model = self.loaded.model
        weights, questions = evaluate.fingerprint(model), evaluate.digest(self.examples)
        found = []
        with output.progress(self.limit * len(plans), "questions") as advance:
            for one in plans:
                job = self._job(one, weights, questions)
                advance(0, f"{one.method} {one.keep}")
                found.append(
                    evaluate.run(
                        model,
                        self.loaded.processor,
                        self.examples,
                        job,
                        one.compressor,
                        self.out and self.out / "runs",
                        (lambda one=one: self._time(one)) if self.timing else None,
                        lambda by, one=one: advance(by, f"{one.method} {one.keep}"),
                    )
                )
        return found

    def _job(self, one: Plan, weights: str, questions: str) -> Any:
        from foveate import evaluate

        return evaluate.Job(
            model=self.loaded.name,
            fingerprint=weights,
            task=self.task,
            examples=questions,
            n=self.limit,
            seed=self.seed,
            method=one.method,
            keep=one.keep,
            compressor=repr(one.compressor) if one.compressor is not None else "Identity()",
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
        )

    def _time(self, one: Plan) -> dict[str, Any]:
        from foveate.bench import prefill_ratio

        if one.compressor is None:
            return {"ratio": 1.0, "interval": [1.0, 1.0], "pairs": 0}
        inputs = self.inputs(self.examples[: min(self.batch_size, PROMPTS)])
        found = prefill_ratio(self.loaded.model, inputs, one.compressor, pairs=TIMED)
        return {
            "ratio": found.wall.median,
            "interval": list(found.wall.quartiles),
            "cpu_ratio": found.cpu.median,
            "pairs": found.pairs,
        }

    def inputs(self, examples: Sequence[Any]) -> dict[str, Any]:
        """One batch as the model takes it."""
        from foveate import evaluate

        model = self.loaded.model
        batch = evaluate.encode(self.loaded.processor, [(e.images, e.question) for e in examples])
        batch = batch.to(model.device)
        return {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in batch.items()}


def described(slugs: Sequence[str]) -> dict[str, Any]:
    """What the report says of each method."""
    return {slug: methods.describe(slug, arguments.factory(slug)) for slug in slugs}
