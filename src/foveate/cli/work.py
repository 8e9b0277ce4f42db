"""The work behind `compare` and `eval`: plans become runs, runs become a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from foveate import tasks
from foveate.cli import arguments, methods, models, output
from foveate.cli.wrong import Wrong

if TYPE_CHECKING:
    from foveate.core.spec import Skipped, Spec

BARE = "identity"
TIMED, PROMPTS = 9, 4  # prefills of either model, in turn, and the prompts of each


class Plan(NamedTuple):
    """One run to make: a method as it is written, and its budget; None where its arguments say it.

    spec        the method, to be built for the model; None for a compressor that is there already
    compressor  None is the bare model
    how         what else `compress` is told: positions, newlines
    trained     the model the compressor was trained with, bare; None is the model that is compared
    """

    method: str
    keep: int | float | None
    spec: Spec | None = None
    compressor: Any = None
    how: Mapping[str, str] = MappingProxyType({})
    trained: models.Loaded | None = None

    @property
    def untrained(self) -> bool:
        """Whether weights act that nobody trained: those of a method that was made from its name."""
        made = self.compressor if self.spec is not None else None
        return made is not None and any(p.numel() for p in made.parameters())

    def __str__(self) -> str:
        if self.trained is not None:
            return self.trained.name
        return self.method if self.keep is None else f"{self.method} {self.keep}"


def plan(slugs: str, keeps: str) -> tuple[list[Plan], list[Skipped]]:
    """The bare model, then every method at every budget; budgets a method does not have are skipped.

    Methods whose arguments say what they keep run once. Raises Wrong for unknown methods and arguments,
    and for budgets that mean nothing to any.
    """
    from foveate.core.spec import crossed

    asked = arguments.specs(slugs)
    if not asked:
        raise Wrong("--methods is empty: want names with commas; see `foveate methods`")
    specs = [spec for spec in asked if spec.slug != BARE]
    found, skipped = crossed(specs, arguments.budgets(keeps, specs))
    if specs and not found:
        raise Wrong(f"nothing to compare: {skipped[0]['method']}: {skipped[0]['why']}")
    return [Plan(BARE, 1.0), *(Plan(str(spec), keep, spec) for spec, keep in found)], skipped


def fitting(loaded: models.Loaded, plans: Sequence[Plan]) -> tuple[list[Plan], list[Skipped]]:
    """Those plans that this model can carry out, built for it, and why not the others.

    The model is bare afterwards.
    """
    import foveate

    model = loaded.model
    foveate.restore(model)
    fit, skipped = [], []
    for one in plans:
        try:
            if one.spec is not None:
                made = one.spec.build(one.keep, model)
                one = one._replace(compressor=made, how=loaded.how(made))
            if one.compressor is not None:
                foveate.compress(model, one.compressor, **one.how)
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

        questions, found = evaluate.digest(self.examples), []
        with output.progress(self.limit * len(plans), "questions") as advance:
            for one in plans:
                job = self._job(one, questions)
                advance(0, str(one))
                with models.asked(self.of(one)):
                    done = evaluate.run(
                        self.of(one).model,
                        self.loaded.processor,
                        self.examples,
                        job,
                        one.compressor,
                        self.out and self.out / "runs",
                        (lambda one=one: self._time(one)) if self.timing else None,
                        lambda by, one=one: advance(by, str(one)),
                    )
                found.append(done)
        return found

    def of(self, one: Plan) -> models.Loaded:
        """The model a run asks."""
        return one.trained or self.loaded

    def _job(self, one: Plan, questions: str) -> Any:
        from foveate import evaluate

        own = self.of(one)
        return evaluate.Job(
            model=own.name,
            # Weights of a compressor that was saved make its answers; those of others are made for the run.
            fingerprint=evaluate.fingerprint(own.model, None if one.spec else one.compressor),
            task=self.task,
            examples=questions,
            n=self.limit,
            seed=self.seed,
            method=one.method,
            keep=one.keep,
            compressor=repr(one.compressor) if one.compressor is not None else "Identity()",
            protocol=own.protocol,
            **one.how,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            untrained=one.untrained,
        )

    def _time(self, one: Plan) -> dict[str, Any]:
        """Prefill against the bare model that is compared, a trained model's too: one scale for all rows."""
        from foveate.bench import prefill_ratio
        from foveate.evaluate import told

        if one.compressor is None:
            return {"ratio": 1.0, "interval": [1.0, 1.0], "pairs": 0}
        inputs, asked = self.inputs(self.examples[: min(self.batch_size, PROMPTS)])
        with told(one.compressor, asked):
            found = prefill_ratio(
                self.loaded.model, inputs, one.compressor, TIMED, self.of(one).model, one.how
            )
        return {
            "ratio": found.wall.median,
            "interval": list(found.wall.quartiles),
            "cpu_ratio": found.cpu.median,
            "pairs": found.pairs,
        }

    def inputs(self, examples: Sequence[Any]) -> tuple[dict[str, Any], Any]:
        """One batch as the model takes it, and where in it the user's words stand."""
        from foveate import evaluate

        model, asks = self.loaded.model, [(e.images, e.question) for e in examples]
        batch, asked = evaluate.encode(self.loaded.processor, asks)
        batch = batch.to(model.device)
        floating = {k: v.to(model.dtype) for k, v in batch.items() if v.is_floating_point()}
        return {**batch, **floating}, asked


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
