"""Evaluate one method, or compare many, on a model that is loaded: what the command line does, in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from foveate.core.compressor import Compressor
from foveate.core.ops import whole
from foveate.core.spec import Spec
from foveate.evaluate.comparison import BARE, comparison
from foveate.evaluate.plans import (
    Loaded,
    Plan,
    as_saved,
    budgets,
    fitting,
    own,
    plan,
    remarks,
    spread,
)
from foveate.evaluate.prompts import first
from foveate.evaluate.runs import Example
from foveate.evaluate.work import Work
from foveate.hosts import attach
from foveate.hosts.switches import Switches
from foveate.registry.methods import factory
from foveate.tasks.metrics import METRICS
from foveate.tasks.own import Own, Task
from foveate.tasks.own import task as own_task

Method = str | Callable[..., Compressor]
SETTINGS = ("seed", "batch_size", "max_new_tokens", "timing", "out")
READING = tuple(field.name for field in fields(Own))  # of questions of one's own
SWITCHES = ("dropped", "attention")
FIELDS = ("images", "question", "answer", "kind", "group", "key")


def evaluate(
    model: Any,
    processor: Any,
    method: Compressor | Method | None = None,
    keep: int | float | None = None,
    task: str | Sequence[Example] = "patchqa",
    limit: int | None = None,
    positions: str = "original",
    **settings: Any,
) -> dict[str, Any]:
    """One method on one task: the document that `foveate eval --json` prints.

    method: a compressor; or a name or factory, made for the model at this budget; None is the model as it
    is, with the compressor it was saved with or bare. task: a name of `foveate.tasks.TASKS`, of which the
    first `limit` questions are asked (220 unless told; the command line asks more); a file, a folder or
    hf:NAME:SPLIT, as `foveate.tasks.own.task` reads them; or your own examples: objects with images,
    question, answer, kind, group and key. Of your own all are asked unless told. settings: seed,
    batch_size, max_new_tokens, timing (prefill beside the bare model), and out, a folder where the result is
    kept and a killed run goes on; dropped and attention, as `foveate.compress` takes them; and of your own
    questions metric, columns, images, outside and skip, as `foveate.tasks.own.Own` has them.

    The document has accuracy (overall and by group), its interval, tokens before and after, steps, cost
    and every answer. The model comes back as it was. Raises ValueError and TypeError for methods, budgets
    and tasks that are none, as `foveate.compress` does.
    """
    work = _work(model, processor, task, limit, settings)
    one = _plan(work.loaded, method, keep, positions)
    with attach.lent(model):
        attach.restore(model)
        (document,) = work.runs([one])
    return document


def compare(
    model: Any,
    processor: Any,
    methods: str | Sequence[Method],
    keeps: Sequence[int | float] = (0.5, 0.25, 0.125),
    task: str | Sequence[Example] = "patchqa",
    limit: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Methods × budgets on one task beside the bare model: the document of `foveate compare --json`.

    methods: names, with commas or in a list, or factories that take `keep`, as
    functools.partial(METHODS["pool"], layer=2) does.
    Budgets that a method does not have stand under "skipped", with the reason. A model that was saved with
    a compressor has a row of its own. task, limit and settings as in `evaluate`.
    """
    work = _work(model, processor, task, limit, settings)
    given = methods.replace(" ", "").split(",") if isinstance(methods, str) else methods
    specs = [_spec(method) for method in given]
    asked, skipped = plan(specs, keeps)
    with attach.lent(model):
        saved = own(work.loaded)
        fit, unfit = fitting(work.loaded, asked, first(work.examples, work.metric))
        fit += [] if saved is None else spread(saved, budgets(asked))
        notes = remarks(work.loaded.name, fit, saved)
        return comparison(work.runs(fit), skipped + unfit, notes)


def _work(
    model: Any,
    processor: Any,
    task: str | Sequence[Example],
    limit: int | None,
    settings: dict[str, Any],
) -> Work:
    """What is asked, of whom. A path in `out` is made a folder by the runs."""
    if wrong := settings.keys() - {*SETTINGS, *SWITCHES, *READING}:
        known = ", ".join((*SETTINGS, *SWITCHES, *READING))
        raise TypeError(f"no setting {min(wrong)!r}: there are {known}")
    switches = {name: settings[name] for name in SWITCHES if name in settings}
    Switches(**switches)  # raises for words that they do not have
    limit = None if limit is None else whole("limit", limit)
    reading = Own(**{name: settings[name] for name in READING if name in settings})
    settings = {name: value for name, value in settings.items() if name in SETTINGS}
    if isinstance(task, str):
        asked = own_task(task, limit, settings.get("seed", 0), reading)
    else:
        asked = Task("own", [*task][:limit], METRICS[reading.metric])
    examples = asked.examples
    if not examples:
        raise ValueError(f"task {asked.name}: no examples to ask")
    if lost := [field for field in FIELDS if not hasattr(examples[0], field)]:
        raise TypeError(
            f"an example is a {type(examples[0]).__name__} without {', '.join(lost)}: want objects with "
            f"{', '.join(FIELDS)}, as foveate.patchqa.Example"
        )
    called = Path(getattr(model, "name_or_path", "")).name or type(model).__name__
    if (out := settings.get("out")) is not None:
        settings = {**settings, "out": Path(out)}
    loaded = Loaded(model, processor, called, switches=switches)
    return Work(loaded, asked.name, examples, **settings, metric=asked.metric)


def _plan(
    loaded: Loaded, method: Compressor | Method | None, keep: int | float | None, positions: str
) -> Plan:
    """The run of one method as it was given. Raises ValueError and TypeError where it fits nothing."""
    how = {"positions": positions, **loaded.switches}
    if isinstance(method, Compressor):
        if keep is not None:
            raise TypeError(f"keep={keep} beside a method that is made: give it to its constructor")
        return Plan(str(method), None, None, method, how)
    if method is not None:
        spec = _spec(method)
        return Plan(str(spec), keep, spec, spec.build(keep, loaded.model), how)
    saved = as_saved(loaded) if attach.is_compressed(loaded.model) else None
    if keep is None:
        return Plan(BARE, 1.0) if saved is None else saved
    if saved is None:
        raise ValueError(f"keep={keep} without a method, and the model is not compressed")
    return saved._replace(keep=keep, compressor=saved.compressor.but(keep=keep))


def _spec(method: Method) -> Spec:
    """A method as people call it: by its name, or a factory by that of its file or its own."""
    if isinstance(method, str):
        return Spec(method, factory(method))
    make, given = getattr(method, "func", method), getattr(method, "keywords", {})
    if not callable(make) or isinstance(method, Compressor):
        raise TypeError(f"want a method's name, class or factory, got a {type(method).__name__}")
    room, _, slug = make.__module__.rpartition(".")
    name = slug if room == "foveate.methods" else make.__name__
    return Spec(name, make, given)
