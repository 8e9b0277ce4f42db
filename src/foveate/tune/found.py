"""A search from its questions to the setting: half of them to choose on, the other half to show it on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foveate.evaluate import fingerprint
from foveate.evaluate.bounds import interval, upper
from foveate.evaluate.plans import BARE, Plan
from foveate.evaluate.work import Work
from foveate.keeping.provenance import dumps, record, write
from foveate.registry.setting import Setting
from foveate.tune.search import Asked, front, search, spans
from foveate.tune.target import Target, shown

Documents = list[dict[str, Any]]


@dataclass(frozen=True)
class Tuned:
    """What was found: the setting, all that led to it, and where it was run."""

    setting: Setting
    document: dict[str, Any]
    circumstances: dict[str, Any]

    def write(self, out: Path, **more: Any) -> Path:
        """The setting's file in a folder, beside tune.json with everything."""
        whole = {**self.document, **more, "circumstances": self.circumstances}
        write(out / "tune.json", dumps(whole))
        told = ("target", "delta", "task", "questions", "chosen")
        return self.setting.write(out / "setting.json", **{n: self.document[n] for n in told})


def tuned(
    job: Work,
    plans: Sequence[Plan],
    target: Target,
    delta: float,
    runs: Callable[[Work, Sequence[Plan]], Documents] = Work.runs,
) -> Tuned:
    """The candidate that does best what is wanted, and what is shown of it; all tokens where nothing is.

    plans: the candidates, as `fitting` builds them; runs makes their documents. Raises ValueError for a
    single question, and where no candidate is within the target.
    """
    count = len(job.examples)
    order, half = random.Random(job.seed).sample(range(count), count), count // 2
    if not half:
        raise ValueError(
            "one question: want two at least, to choose on one and to show on the other"
        )

    def ask(some: Sequence[Plan], span: tuple[int, int]) -> Documents:
        asked = _only(job.examples, order[slice(*span)])
        return runs(replace(job, examples=asked), [Plan(BARE, 1.0), *some])

    def apart(plan: Plan) -> Asked:
        full, run = ask([plan], (half, count))
        return Asked(plan).more(run, full)

    found = search(plans, ask, spans(half), target.within, target.near)
    if not any(target.within(one) for one in found):
        least = min(getattr(one, target.name) for one in found)
        raise ValueError(
            f"{target.name}={target.most:g}: the least of any candidate is {least:.3g}"
        )
    whole = [one for one in found if one.n == half]
    tried = [*shown(target, whole, apart, delta)]
    best = next((one for one, holds in reversed(tried) if holds), None)
    document = {
        "target": {target.name: target.most},
        "delta": delta,
        "model": job.loaded.name,
        "task": job.task,
        "questions": {"choosing": half, "showing": count - half},
        "chosen": None if best is None else _row(best, delta),
        "tried": [{**_row(one, delta), "holds": holds} for one, holds in tried],
        "front": [_row(one, delta) for one in front(whole)],
        "candidates": [_row(one, delta) for one in found],
    }
    where = record(job.seed, job.loaded.model.device)
    return Tuned(_setting(job, best), document, where)


def _only(examples: Sequence[Any], which: Sequence[int]) -> Sequence[Any]:
    """These questions; of a file, none of which is read for it."""
    own = getattr(examples, "only", None)
    return [examples[n] for n in which] if own is None else own(np.array(which))


def _setting(job: Work, best: Asked | None) -> Setting:
    method = BARE if best is None else _whole(best.plan)
    how = {} if best is None else dict(best.plan.how)
    return Setting(method, job.loaded.name, fingerprint(job.loaded.model), how)


def _row(one: Asked, delta: float) -> dict[str, Any]:
    """A candidate in a document."""
    return {
        "method": _whole(one.plan),
        "questions": one.n,
        "tokens": one.tokens,
        "prefill": one.prefill,
        "flips": one.flips,
        "rate": one.rate,
        "interval": interval(one.flips, one.n, delta),
        "at_most": upper(one.flips, one.n, delta),
        "moved": one.moved / one.n,
    }


def _whole(plan: Plan) -> str:
    return replace(plan.spec, keep=plan.keep).whole
