"""Methods × budgets × batch sizes × image sizes: what each cell counts and takes, in one document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from foveate.bench import memory
from foveate.bench.cells import BARE, Cell, Subject
from foveate.bench.clock import FEWEST, Advance, load
from foveate.bench.count import prefill
from foveate.bench.journal import Journal
from foveate.bench.limits import bare, judged, realised
from foveate.bench.measure import FIRST, Effort, measure
from foveate.bench.steps import training_steps
from foveate.core.compressor import Compressor, language
from foveate.core.spec import Skipped
from foveate.hosts.attach import compress
from foveate.hosts.twins import twin
from foveate.keeping.held import held
from foveate.keeping.provenance import record

ABREAST = 12  # cells that are timed in turn, and kept together
Known = dict[
    tuple[Any, ...], dict[str, Any]
]  # method, budget and image size → what a prompt counts


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
    out comes to it, with the reason, and so does one that would fill the memory or take longer than it may.
    Every timed cell says the load of the machine before its process began to measure.
    `advance(1, what)` is called `ticks(cells, effort)` times. Raises HeldError if another process writes to
    `out`.
    """
    model = subject.model
    circumstances = record(seed, "cpu" if model is None else model.device)
    about = subject.about()
    asked = {"cells": [str(c) for c in cells], "effort": effort and asdict(effort), "seed": seed}
    where = {k: circumstances[k] for k in ("commit", "versions", "device", "threads")}
    rows, skipped, before = [], list(skipped), load()
    known: Known = {}
    with held(out):
        journal = Journal(out, {**about, **asked, **where})
        for group in groups(cells, effort):
            todo = journal.missing(map(str, group))
            made = _rows(
                subject, [c for c in group if str(c) in todo], effort, rows, known, before, advance
            )
            journal.keep(made)
            for row in (made.get(str(c)) or journal.cells[str(c)] for c in group):
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


def groups(cells: Iterable[Cell], effort: Effort | None) -> list[list[Cell]]:
    """The cells that are timed in turn: those of one image and batch size, ABREAST of them at most.

    One by one where nothing is timed.
    """
    alike = groupby(cells, key=lambda cell: (cell.visual, cell.batch))
    most = 1 if effort is None else ABREAST
    some = [list(group) for _, group in alike]
    return [group[n : n + most] for group in some for n in range(0, len(group), most)]


def ticks(cells: Sequence[Cell], effort: Effort | None) -> int:
    """How often `bench` advances when nothing is resumed or left out."""
    if effort is None:
        return len(cells)
    steps = 2 * effort.rounds * len(cells) if effort.training else 0
    return len(cells) + steps + len(groups(cells, effort)) * (effort.pairs + effort.rounds)


def _rows(
    subject: Subject,
    cells: Sequence[Cell],
    effort: Effort | None,
    rows: Sequence[Mapping[str, Any]],
    known: Known,
    before: float | None,
    advance: Advance | None,
) -> dict[str, dict[str, Any]]:
    """Cells by their names, or why there is none. rows: those before; before: the load of the machine."""
    found: dict[str, dict[str, Any]] = {}
    ready: dict[str, tuple[Cell, Compressor | None]] = {}
    for cell in cells:
        with _excused(found, [cell]):
            own = subject.at(cell.visual)
            method = cell.compressor(own.whole)
            row = {**_about(cell), "compressor": "bare" if method is None else repr(method)}
            row |= _counted(own, cell, method, known)
            row |= _untrained(method, row, row["visual"])
            found[str(cell)], ready[str(cell)] = row, (cell, method)
        if advance is not None:
            advance(1, str(cell))
    if effort is not None and ready:
        with _excused(found, [cell for cell, _ in ready.values()]):
            timed = _timed(subject, ready, found, effort, rows, advance)
            for name, row in timed.items():
                found[name] |= {"load": before} | row
    return found


def _about(cell: Cell) -> dict[str, Any]:
    about = {"method": cell.method, "keep": cell.keep, "batch": cell.batch, "idle": cell.idle}
    return about if cell.visual is None else {**about, "asked": cell.visual}


@contextmanager
def _excused(found: dict[str, dict[str, Any]], cells: Iterable[Cell]) -> Iterator[None]:
    """What these cells cannot do is told in their place: the others are worth having."""
    try:
        yield
    except (ValueError, RuntimeError, MemoryError, TimeoutError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        found |= {str(cell): {**_about(cell), "why": why} for cell in cells}


def _counted(
    subject: Subject, cell: Cell, method: Compressor | None, known: Known
) -> dict[str, Any]:
    """What one prompt counts, of the model as of the bare one; counted once for all batch sizes."""
    key, whole = (cell.method, cell.keep, cell.visual), (BARE, 1.0, cell.visual)
    if key not in known:
        found = subject.counts(method)
        uncut = found if method is None else known.get(whole) or subject.counts(None)
        flops = found["macs"]["total"] / uncut["macs"]["total"]
        known[key] = {"visual": uncut["tokens"], **found, "flops_to_bare": flops}
    return known[key]


def _timed(
    subject: Subject,
    ready: Mapping[str, tuple[Cell, Compressor | None]],
    counted: dict[str, dict[str, Any]],
    effort: Effort,
    rows: Sequence[Mapping[str, Any]],
    advance: Advance | None,
) -> dict[str, dict[str, Any]]:
    """What cells of one image and batch size take, in turn; one that fails is told in `counted`.

    Raises MemoryError and TimeoutError, with the numbers, for what is too large to be measured.
    """
    (first, _), *_ = ready.values()
    subject = subject.at(first.visual)
    model, inputs = bare(subject.model), subject.inputs(first.batch)
    memory.room(model, inputs["input_ids"].shape[1] + max(effort.new_tokens), first.batch)
    _in_time([counted[name] for name in ready], effort, rows)
    models, layers = {FIRST: model}, {}
    for name, (cell, method) in ready.items():
        with _excused(counted, [cell]):
            if method is not None:
                small = compress(twin(model), method)
                with torch.no_grad():
                    prefill(small, inputs)()
                models[name] = small
            layers[name] = counted[name]["tokens_per_layer"]
    quick = [name for name, (cell, _) in ready.items() if cell.idle]
    taken = measure(models, inputs, layers, effort, quick, advance)
    found = {}
    for name in layers:
        own = taken[name if name in models else FIRST]
        if "to_bare" in own:
            own["realised"] = realised(own["to_bare"]["wall"], counted[name]["flops_to_bare"])
        if effort.training and name not in quick:
            given = (ready[name][1], layers[name], effort.rounds, advance)
            own["training"] = training_steps(model, inputs, *given)
        found[name] = own
    return found


def _in_time(
    cells: Sequence[Mapping[str, Any]], effort: Effort, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Raise TimeoutError if the fewest rounds would take longer than they may, at the pace of the last."""
    last = next((one for one in reversed(rows) if "prefill_s" in one), None)
    if effort.seconds is None or last is None:
        return
    pace = last["prefill_s"]["median"] / (last["batch"] * last["macs"]["total"])
    own = {cell["compressor"]: cell["macs"]["total"] for cell in cells}
    short = {cell["tokens"]: cell["macs"]["total"] for cell in cells}
    whole = max(cell["macs"]["total"] / cell["flops_to_bare"] for cell in cells)
    together = whole + sum(own.values()) + sum(short.values())
    steps = 3 + 4 if effort.training else 0  # backward takes twice a forward, and recomputing once
    passes = 1 + (1 + steps if effort.rounds else 0)
    seconds = pace * cells[0]["batch"] * together * ((FEWEST + 1) * passes + 1)
    if seconds > effort.seconds:
        raise TimeoutError(
            f"{FEWEST} rounds take about {seconds:,.0f} seconds, more than the {effort.seconds:,.0f} that "
            "cells of one image and batch size may (--cell-seconds)"
        )


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
