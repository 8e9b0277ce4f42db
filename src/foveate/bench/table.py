"""Methods × budgets × batch sizes × image sizes: what each cell counts and takes, in one document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from foveate.bench import memory
from foveate.bench.cells import BARE, Cell, Subject
from foveate.bench.clock import FEWEST, Advance, load
from foveate.bench.journal import Journal
from foveate.bench.limits import bare, judged, realised
from foveate.bench.measure import Effort, measure
from foveate.core.compressor import Compressor, language
from foveate.core.spec import Skipped
from foveate.keeping.held import held
from foveate.keeping.provenance import record

COUNTED = (
    *("visual", "tokens", "tokens_per_layer", "equivalent_tokens", "compression"),
    *("macs", "flops", "flops_to_bare", "kv_bytes"),
)


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
    with held(out):
        journal = Journal(out, {**about, **asked, **where})
        for cell in cells:
            made = partial(_row, subject, cell, effort, rows, before, advance)
            row = journal.cell(str(cell), made)
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
    subject: Subject,
    cell: Cell,
    effort: Effort | None,
    rows: Sequence[Mapping[str, Any]],
    before: float | None,
    advance: Advance | None,
) -> dict[str, Any]:
    """A finished cell, or why there is none. rows: those before it; before: the load of the machine."""
    about = {"method": cell.method, "keep": cell.keep, "batch": cell.batch, "idle": cell.idle}
    about |= {} if cell.visual is None else {"asked": cell.visual}
    try:
        subject = subject.at(cell.visual)
        method = cell.compressor(subject.whole)
        row = {**about, "compressor": "bare" if method is None else repr(method)}
        row |= _counted(subject, cell, method, rows)
        row |= _untrained(method, row, row["visual"])
        if effort is not None:
            row |= {"load": before} | _timed(subject, cell, method, row, effort, rows, advance)
    except (
        ValueError,
        RuntimeError,
        MemoryError,
        TimeoutError,
    ) as error:  # the others are worth having
        return {**about, "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        if advance is not None:
            advance(1, str(cell))
    return row


def _counted(
    subject: Subject, cell: Cell, method: Compressor | None, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What one prompt counts, of the model as of the bare one: that of another batch size is the same."""
    same = (cell.method, cell.keep, cell.visual)
    for row in rows:
        if (row["method"], row["keep"], row.get("asked")) == same:
            return {name: row[name] for name in COUNTED}
    found = subject.counts(method)
    whole = found if method is None else _bare_counts(subject, cell, rows)
    visual = whole["tokens"]
    return {
        "visual": visual,
        **found,
        "flops_to_bare": found["macs"]["total"] / whole["macs"]["total"],
    }


def _bare_counts(
    subject: Subject, cell: Cell, rows: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    bare = (row for row in rows if (row["method"], row.get("asked")) == (BARE, cell.visual))
    return next(bare, None) or subject.counts(None)


def _timed(
    subject: Subject,
    cell: Cell,
    method: Compressor | None,
    row: Mapping[str, Any],
    effort: Effort,
    rows: Sequence[Mapping[str, Any]],
    advance: Advance | None,
) -> dict[str, Any]:
    """Raises MemoryError and TimeoutError, with the numbers, for what is too large to be measured."""
    quick = replace(effort, rounds=0) if cell.idle else effort
    model, inputs = bare(subject.model), subject.inputs(cell.batch)
    memory.room(model, inputs["input_ids"].shape[1] + max(effort.new_tokens), cell.batch)
    _in_time(row, quick, rows)
    found = measure(model, inputs, method, row["tokens_per_layer"], quick, advance)
    if "to_bare" in found:
        found["realised"] = realised(found["to_bare"]["wall"], row["flops_to_bare"])
    return found


def _in_time(row: Mapping[str, Any], effort: Effort, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise TimeoutError if the fewest rounds would take longer than a cell may, at the pace of the last."""
    last = next((one for one in reversed(rows) if "prefill_s" in one), None)
    if effort.seconds is None or last is None:
        return
    pace = last["prefill_s"]["median"] / (last["batch"] * last["macs"]["total"])
    prefill = pace * row["batch"] * row["macs"]["total"]
    # The method and its limit, and the bare model; of each the rounds, one to warm up, and the peak.
    together = prefill if row["method"] == BARE else 2 * prefill + prefill / row["flops_to_bare"]
    steps = 3 + 4 if effort.training else 0  # backward takes twice a forward, and recomputing once
    passes = 1 + (1 + steps if effort.rounds else 0)
    seconds = together * ((FEWEST + 1) * passes + 1)
    if seconds > effort.seconds:
        raise TimeoutError(
            f"{FEWEST} rounds take about {seconds:,.0f} seconds, more than the {effort.seconds:,.0f} that a "
            "cell may (--cell-seconds)"
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
