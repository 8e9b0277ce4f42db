"""Methods × budgets × batch sizes: what each cell counts and takes, in one document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from foveate.bench.clock import Advance
from foveate.bench.count import Paper, counts, text_columns
from foveate.bench.journal import Journal
from foveate.bench.limits import bare, judged
from foveate.bench.measure import Effort, measure
from foveate.core.compressor import Compressor, language
from foveate.core.ops import Keep
from foveate.core.spec import Skipped, Spec, crossed
from foveate.keeping.held import held
from foveate.keeping.provenance import record
from foveate.registry.methods import factory

BARE = "identity"
IDLE = ("stride", "fastv")  # one before and one inside the language model, that do next to nothing


class Cell(NamedTuple):
    """One row of the table. method BARE is the bare model; idle cells keep all, and only prefill.

    keep  None where the method's arguments say it
    spec  the method with these arguments; None for a method by its name
    """

    method: str
    keep: Keep | None
    batch: int
    idle: bool = False
    spec: Spec | None = None

    def __str__(self) -> str:
        keep = "" if self.keep is None else f" {self.keep}"
        return f"{self.method}{keep} × {self.batch}" + (" idle" if self.idle else "")

    def compressor(self, model: Any = None) -> Compressor | None:
        """The method at this budget, with the sizes of a model. Raises ValueError for another's budget."""
        if self.method == BARE:
            return None
        return (self.spec or Spec(self.method, factory(self.method))).build(self.keep, model)


@dataclass(frozen=True)
class Subject:
    """What is measured: a model with prompts for it, or, where it cannot run, a paper to count on.

    inputs  batch size → that many prompts of one length
    """

    name: str
    model: nn.Module | None = None
    inputs: Callable[[int], Mapping[str, Tensor]] | None = None
    paper: Paper | None = None

    @property
    def whole(self) -> nn.Module:
        """The model, or its skeleton."""
        return self.paper.whole if self.model is None else self.model

    def counts(self, method: Compressor | None) -> dict[str, Any]:
        """Of one prompt. Raises ValueError, NotImplementedError where that cannot be told."""
        if self.model is None:
            return self.paper.counts(method)
        return counts(self.model, self.inputs(1), method)

    def about(self) -> dict[str, Any]:
        """The model and its prompt in numbers."""
        inputs = self.paper.prompts[0] if self.model is None else self.inputs(1)
        text = text_columns(self.whole, inputs)
        parameters = list(self.whole.parameters())
        return {
            "model": self.name,
            "dtype": str(parameters[0].dtype).removeprefix("torch."),
            "parameters": sum(p.numel() for p in parameters),
            "prompt": {"visual": inputs["input_ids"].shape[1] - text, "text": text},
        }


def plan(
    methods: Iterable[Spec], keeps: Sequence[Keep], batches: Sequence[int], timed: bool = True
) -> tuple[list[Cell], list[Skipped]]:
    """For each batch size the bare model, every method at every budget it has, and the idle cells.

    Idle are those of IDLE that are among the methods.
    """
    methods = list(methods)
    idle = {spec.slug for spec in methods} & {*IDLE}
    chosen, skipped = crossed((spec for spec in methods if spec.slug != BARE), keeps)
    found = []
    for batch in batches:
        found.append(Cell(BARE, 1.0, batch))
        found += [Cell(str(spec), keep, batch, spec=spec) for spec, keep in chosen]
        found += [Cell(slug, 1.0, batch, idle=True) for slug in IDLE if timed and slug in idle]
    return found, skipped


def bench(
    subject: Subject,
    cells: Sequence[Cell],
    effort: Effort | None = None,
    out: Path | None = None,
    seed: int = 0,
    advance: Advance | None = None,
    skipped: Iterable[Skipped] = (),
) -> dict[str, Any]:
    """Everything `foveate bench` tells, JSON-ready; written to `out` whole, resumed if it was killed.

    effort None: count only. skipped: what the plan left out already; a cell that this model cannot carry
    out comes to it, with the reason.
    `advance(1, what)` is called `ticks(cells, effort)` times. Raises HeldError if another process writes to
    `out`.
    """
    model = subject.model
    circumstances = record(seed, "cpu" if model is None else model.device)
    about = subject.about()
    asked = {"cells": [str(c) for c in cells], "effort": effort and asdict(effort), "seed": seed}
    where = {k: circumstances[k] for k in ("commit", "versions", "device", "threads")}
    rows, skipped = [], list(skipped)
    with held(out):
        journal = Journal(out, {**about, **asked, **where})
        for cell in cells:
            row = journal.cell(str(cell), lambda cell=cell: _row(subject, cell, effort, advance))
            (skipped if "why" in row else rows).append(row)
        document = {
            **about,
            "effort": effort and asdict(effort),
            "cells": rows,
            "limits": judged(rows),
            "left_out": skipped,
            "resumed": journal.resumed,
            "run": circumstances,
        }
        journal.finish(document)
    return document


def ticks(cells: Sequence[Cell], effort: Effort | None) -> int:
    """How often `bench` advances when nothing is resumed or left out."""
    each = 0 if effort is None else effort.pairs
    answers = 0 if effort is None else effort.rounds
    return sum(1 + each + (0 if cell.idle else answers) for cell in cells)


def _row(
    subject: Subject, cell: Cell, effort: Effort | None, advance: Advance | None
) -> dict[str, Any]:
    """A finished cell, or why there is none."""
    about = {"method": cell.method, "keep": cell.keep, "batch": cell.batch, "idle": cell.idle}
    try:
        method = cell.compressor(subject.whole)
        row = {**about, "compressor": "bare" if method is None else repr(method)}
        row |= subject.counts(method)
        row |= _untrained(method, row, subject.about()["prompt"]["visual"])
        if effort is not None:
            quick = Effort(effort.pairs, 0, effort.new_tokens) if cell.idle else effort
            inputs, layers = subject.inputs(cell.batch), row["tokens_per_layer"]
            row |= measure(bare(subject.model), inputs, method, layers, quick, advance)
    except (ValueError, RuntimeError) as error:  # the other cells are worth having
        return {**about, "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        if advance is not None:
            advance(1, str(cell))
    return row


def _untrained(
    method: Compressor | None, row: Mapping[str, Any], visual: int
) -> dict[str, list[str]]:
    """Compressors with weights, between projector and language model, that kept all of these tokens.

    How many they keep is learned, and weights of a benchmark are random: such a count is an upper bound.
    """
    parts = [] if method is None else method.at(1.0).parts()
    learning = [p for p in parts if p.site == language(0) and any(True for _ in p.parameters())]
    kept = learning and row["tokens_per_layer"][0] == visual
    return {"untrained": [p._get_name() for p in learning]} if kept else {}
