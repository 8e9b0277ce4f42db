"""What is to be run: models, the methods on them, and which of those fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from foveate.core.compressor import Tower
from foveate.core.spec import Skipped, Spec, crossed
from foveate.evaluate.comparison import BARE
from foveate.evaluate.prompts import Ask
from foveate.evaluate.steps import steps
from foveate.hosts import attach
from foveate.hosts.protocol import as_published
from foveate.hosts.saving import settings


@dataclass(frozen=True)
class Loaded:
    """A model ready for inference, its processor, what to call it, and whose protocol it is asked with.

    protocol: None is the checkpoint's own; switches: of dropped and attention, what `compress` is told.
    """

    model: Any
    processor: Any
    name: str
    protocol: str | None = None
    switches: Mapping[str, str] = field(default_factory=dict)

    def how(self, compressor: Any) -> dict[str, str]:
        """What `compress` is told of a method that is asked for by name."""
        published = {} if self.protocol is None else as_published(compressor)
        return {**published, **self.switches}


class Plan(NamedTuple):
    """One run to make: a method as it is written, and its budget; None where its arguments say it.

    spec        the method, to be built for the model; None for a compressor that is there already
    compressor  None is the bare model
    how         what else `compress` is told: positions, newlines, dropped, attention, a ladder
    trained     the model the compressor was trained with, bare; None is the model that is compared
    own         of a baseline, the compared model as it is asked, with other pictures say
    of_batch    makes the compressor for a batch of examples, which it has to know; None takes `compressor`
    """

    method: str
    keep: int | float | None
    spec: Spec | None = None
    compressor: Any = None
    how: Mapping[str, Any] = MappingProxyType({})
    trained: Loaded | None = None
    own: Loaded | None = None
    of_batch: Callable[[Sequence[Any]], Any] | None = None

    def at(self, **changes: Any) -> Plan:
        """Of a model that was saved with a method, the run with other arguments on the same weights.

        Its ladder is of the budgets it was calibrated for, and left behind.
        """
        how = {name: told for name, told in self.how.items() if name != "ladder"}
        keep = changes.get("keep", self.keep)
        return self._replace(keep=keep, compressor=self.compressor.but(**changes), how=how)

    def acting(self, examples: Sequence[Any]) -> Any:
        """The compressor that acts on a batch of these examples; None is none."""
        return self.compressor if self.of_batch is None else self.of_batch(examples)

    @property
    def untrained(self) -> bool:
        """Whether weights act that nobody trained: those of a method that was made from its name."""
        made = self.compressor if self.spec is not None else None
        return made is not None and any(p.numel() for p in made.parameters())

    def __str__(self) -> str:
        if self.trained is not None:
            return self.trained.name
        return self.method if self.keep is None else f"{self.method} {self.keep}"


def plan(specs: Sequence[Spec], keeps: Sequence[int | float]) -> tuple[list[Plan], list[Skipped]]:
    """The bare model, then every method at every budget; budgets that a method lacks are skipped.

    Methods whose arguments say what they keep run once. Raises ValueError where nothing is left.
    """
    specs = [spec for spec in specs if spec.slug != BARE]
    found, skipped = crossed(specs, keeps)
    if specs and not found:
        raise ValueError(f"nothing to compare: {skipped[0]['method']}: {skipped[0]['why']}")
    return [Plan(BARE, 1.0), *(Plan(str(spec), keep, spec) for spec, keep in found)], skipped


def fitting(
    loaded: Loaded, plans: Sequence[Plan], first: Ask | None = None
) -> tuple[list[Plan], list[Skipped]]:
    """Those plans that this model can carry out, built for it, and why not the others.

    first: a question that each has to take, as some budgets cannot be of a picture's tokens. The model is
    bare afterwards.
    """
    model = loaded.model
    attach.restore(model)
    fit, skipped = [], []
    for one in plans:
        try:
            if one.spec is not None:
                made = one.spec.build(one.keep, model)
                one = one._replace(compressor=made, how=loaded.how(made))
            if one.compressor is not None:
                attach.compress(model, one.compressor, **one.how)
                if first is not None:
                    steps(model, loaded.processor, [first])
            fit.append(one)
        except (ValueError, TypeError, NotImplementedError) as error:
            skipped.append({"method": one.method, "keep": one.keep, "why": str(error)})
        finally:
            attach.restore(model)
    return fit, skipped


def as_saved(loaded: Loaded) -> Plan:
    """The run of a model with the compressor it was saved with."""
    base, saved = loaded.model.model, loaded.model.config.visual_compression
    compressor = base.visual_compressor
    method = saved.get("method", saved.get("class", saved["compressor"].lower()))
    how = settings(saved)
    keep = None if "ladder" in how else getattr(compressor.parts()[-1], "keep", None)
    return Plan(method, 1.0 if method == BARE else keep, None, compressor, how)


def own(loaded: Loaded) -> Plan | None:
    """The row of a model as it was saved, beside it bare; None if it was saved without a compressor.

    Ask before anything else is attached: then the model no longer knows.
    """
    if not attach.is_compressed(loaded.model) or (saved := as_saved(loaded)).method == BARE:
        return None
    return saved._replace(trained=replace(loaded, name=f"{loaded.name} as saved"))


def spread(saved: Plan, keeps: Iterable[int | float]) -> list[Plan]:
    """A trained model's run as it was saved; at each of these budgets, if its weights serve any."""
    if not (saved.compressor.elastic and (some := list(keeps))):
        return [saved]
    return [saved.at(keep=k) for k in some]


def budgets(plans: Iterable[Plan]) -> list[int | float]:
    """The budgets that methods are asked for in these plans."""
    asked = (one.keep for one in plans if one.spec is not None and one.keep is not None)
    return list(dict.fromkeys(asked))


def remarks(name: str, plans: Sequence[Plan], saved: Plan | None) -> list[str]:
    """What one must know of these runs: weights that nobody trained, a compressor that is left out.

    name: of the model; saved: the model with the compressor it was saved with, as `own` has it.
    """
    found = [
        f"{one.method} has fresh weights, never trained: train it (foveate train) or load a model saved "
        "with it"
        for one in plans
        if one.untrained
    ]
    ours = [one for one in plans if one.trained is None]
    if saved is not None and any(one.compressor is not saved.compressor for one in ours):
        found.append(_left_out(name, saved, ours))
    return list(dict.fromkeys(found))


def _left_out(name: str, saved: Plan, others: Sequence[Plan]) -> str:
    """What it means to run a model without the compressor it was saved with."""
    anew = any(one.method.partition("(")[0] == saved.method for one in others)
    hint = "; naming the method made its weights anew: leave the name out to keep those that were saved"
    if any(part.site.tower == Tower.projector for part in saved.compressor.every()):
        text = (
            f"{name} was saved with {saved.method} in its projector's place: runs without that use its old "
            "projector, though its language model was trained behind its own compressor"
        )
    else:
        text = (
            f"{name} was saved with {saved.method}: runs without that are of a model that may have been "
            "trained for it"
        )
    return text + hint if anew else text
