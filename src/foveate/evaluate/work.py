"""The work behind `evaluate` and `compare`: plans become runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.bench import prefill_ratio
from foveate.evaluate.plans import Loaded, Plan
from foveate.evaluate.prompts import ask, encode, told
from foveate.evaluate.results import Job
from foveate.evaluate.runs import Elsewhere, Example, answers, digest, run
from foveate.hosts import attach
from foveate.hosts.whole import fingerprint
from foveate.tasks.metrics import EXACT, Metric

TIMED, PROMPTS = 9, 4  # prefills of either model, in turn, and the prompts of each
Advance = Callable[[int, str], None]


def _nobody(by: int, what: str) -> None:
    """Nobody watches."""


@dataclass
class Work:
    """A model, a task, and how it is answered."""

    loaded: Loaded
    task: str
    examples: Sequence[Example]
    seed: int = 0
    batch_size: int = 32
    max_new_tokens: int = 8
    timing: bool = False
    out: Path | None = None
    metric: Metric = EXACT
    elsewhere: Elsewhere | None = None

    def runs(self, plans: Sequence[Plan], advance: Advance = _nobody) -> list[dict[str, Any]]:
        """The documents of all runs, in order; finished ones in `out` are read instead of repeated.

        advance(answers, what) hears of every answer.
        """
        questions, found = digest(self.examples), []
        for one in plans:
            advance(0, str(one))
            found.append(
                run(
                    self.of(one).model,
                    self.of(one).processor,
                    self.examples,
                    self._job(one, questions),
                    one.compressor,
                    self.out and self.out / "runs",
                    (lambda one=one: self._time(one)) if self.timing else None,
                    lambda by, one=one: advance(by, str(one)),
                    one.of_batch,
                    self.metric,
                    self.elsewhere,
                )
            )
        return found

    def batch(self, one: Plan, start: int) -> list[dict[str, Any]]:
        """The answers of one batch, by where it starts, as result files have them."""
        own, some = self.of(one), self.examples[start : start + self.batch_size]
        method = one.acting(some)
        with nullcontext() if method is None else attach.compressed(own.model, method, **one.how):
            return answers(own.model, own.processor, some, self.max_new_tokens, self.metric)

    def of(self, one: Plan) -> Loaded:
        """The model a run asks."""
        return one.trained or one.own or self.loaded

    def _job(self, one: Plan, questions: str) -> Job:
        own = self.of(one)
        return Job(
            model=own.name,
            # Weights of a compressor that was saved make its answers; those of others are made for the run.
            fingerprint=fingerprint(own.model, None if one.spec else one.compressor),
            task=self.task,
            examples=questions,
            n=len(self.examples),
            seed=self.seed,
            method=one.method,
            keep=one.keep,
            compressor=repr(one.compressor) if one.compressor is not None else "Identity()",
            protocol=own.protocol,
            **one.how,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            untrained=one.untrained,
            metric=self.metric.name,
        )

    def _time(self, one: Plan) -> dict[str, Any]:
        """Prefill against the bare model that is compared, a trained model's too: one scale for all rows."""
        if one.compressor is None and one.own is None:
            return {"ratio": 1.0, "interval": [1.0, 1.0], "pairs": 0}
        if "ladder" in one.how:  # how many prefills there are hangs on the question
            return {}
        some = self.examples[: min(self.batch_size, PROMPTS)]
        own, (inputs, asked) = self.of(one), self.inputs(some)
        given = inputs if one.own is None else self.inputs(some, own)[0]
        with told(one.compressor, asked):
            found = prefill_ratio(
                self.loaded.model, inputs, one.acting(some), TIMED, own.model, one.how, given
            )
        return {
            "ratio": found.wall.median,
            "interval": list(found.wall.quartiles),
            "cpu_ratio": found.cpu.median,
            "pairs": found.pairs,
        }

    def inputs(
        self, examples: Sequence[Any], loaded: Loaded | None = None
    ) -> tuple[dict[str, Any], Any]:
        """One batch as a model takes it, and where in it the user's words stand."""
        asks, loaded = [ask(e, self.metric) for e in examples], loaded or self.loaded
        model, (batch, asked) = loaded.model, encode(loaded.processor, asks)
        batch = batch.to(model.device)
        floating = {k: v.to(model.dtype) for k, v in batch.items() if v.is_floating_point()}
        return {**batch, **floating}, asked
