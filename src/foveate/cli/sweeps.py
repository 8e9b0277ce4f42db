"""A method at one decoder layer after the other, behind whatever a saved model has before its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from foveate.cli import arguments, values
from foveate.cli.work import done
from foveate.cli.wrong import Wrong

if TYPE_CHECKING:
    from foveate.core.compressor import Compressor
    from foveate.core.ops import Keep
    from foveate.core.spec import Spec
    from foveate.evaluate.plans import Loaded, Plan
    from foveate.evaluate.work import Work

GUIDED = "focusllava(only=text)"


class Before(NamedTuple):
    """What a saved model does before its decoder layers: it stays, as the model was trained with it."""

    parts: list[Compressor]
    how: Mapping[str, str] = MappingProxyType({})

    def and_then(self, *others: Compressor) -> Compressor:
        """All of it, then these. Raises ValueError if they do not stand behind it."""
        from foveate import Chain

        parts = [*self.parts, *others]
        return parts[0] if len(parts) == 1 else Chain(*parts)

    def plan(self) -> Plan:
        """The run that the others are compared with."""
        from foveate.evaluate.plans import BARE, Plan

        if not self.parts:
            return Plan(BARE, 1.0)
        return Plan("unguided", None, None, self.and_then(), self.how)


def before(model: Any) -> Before:
    """What a model was saved with that acts before its first decoder layer; the model is bare afterwards."""
    import foveate
    from foveate.hosts.saving import settings

    if not foveate.is_compressed(model):
        return Before([])
    saved = model.model.visual_compressor.at(1.0).parts()
    how = settings(model.config.visual_compression)
    how.pop("ladder", None)  # what is swept has budgets of its own
    foveate.restore(model)
    first = foveate.Site(foveate.Tower.language, 0)
    return Before([part for part in saved if part.site <= first], how)


def layered(text: str) -> list[Spec]:
    """Methods with commas whose argument `layer` is free. Raises Wrong for those that have none."""
    from foveate.registry.methods import factory, names, parameters

    found = arguments.specs(text)
    if not found:
        raise Wrong("--methods is empty: want a method that has a layer, such as fastv")
    for spec in found:
        if "layer" not in parameters(spec.make):
            there = [slug for slug in names() if "layer" in parameters(factory(slug))]
            raise Wrong(f"{spec.slug} has no argument layer: want one of {', '.join(there)}")
        if "layer" in spec.arguments:
            raise Wrong(f"{spec}: the sweep sets the layer; leave it out")
    return found


def numbers(text: str | None) -> list[int] | None:
    """The decoder layers in a comma-separated list; None for all. Raises Wrong for what is no number."""
    if text is None:
        return None
    return sorted({*values.wholes("--layers", text, least=0, such="1,2,4")})


def layers(loaded: Loaded, asked: list[int] | None, most: int) -> list[int]:
    """The layers asked for, else all with a layer before them, no more than so many, evenly spread."""
    last = loaded.model.config.get_text_config().num_hidden_layers - 1
    if asked is None:
        steps = max(min(most, last) - 1, 1)
        return sorted({1 + round((last - 1) * k / steps) for k in range(steps + 1)})
    if wrong := [k for k in asked if not 1 <= k <= last]:
        raise Wrong(f"--layers {wrong[0]}: {loaded.name} has decoder layers 1 to {last}")
    return asked


def at(spec: Spec, layer: int) -> Spec:
    """The method at this decoder layer."""
    return replace(spec, arguments={**spec.arguments, "layer": layer})


def built(spec: Spec, keep: Keep | None, model: Any, behind: Before) -> Compressor:
    """A method's one compressor, for a model, behind what stays. Raises Wrong for methods of several."""
    try:
        made = spec.build(keep, model)
        if len(made.parts()) == 1:
            return behind.and_then(made)
    except (ValueError, TypeError) as error:
        raise Wrong(f"{spec}: {error}") from error
    sites = ", ".join(str(part.site) for part in made.parts())
    raise Wrong(f"{spec} acts at {sites}: want a method of one step, such as {GUIDED}")


def plans(
    specs: Sequence[Spec], keep: Keep, numbers: Sequence[int], model: Any, behind: Before
) -> list[tuple[Spec, int, Plan]]:
    """A run for each method and layer, behind what stays of a saved model."""
    from foveate.evaluate.plans import Plan

    found = []
    for spec in specs:
        for layer in numbers:
            here, (budget,) = at(spec, layer), spec.budgets([keep])
            made = built(here, budget, model, behind)
            whole = Plan(str(here), budget, None, made, behind.how)
            found.append((spec, layer, whole if behind.parts else Plan(str(here), budget, here)))
    return found


def guidance(
    work: Work, chosen: Sequence[tuple[Spec, int, Plan]], behind: Before
) -> dict[str, Any]:
    """The runs of a sweep as `comparison` has them, the model without them first; each says its layer."""
    from foveate import evaluate

    fit, unfit = evaluate.plans.fitting(
        work.loaded, [behind.plan(), *(plan for *_, plan in chosen)]
    )
    if unfit:
        raise Wrong(f"{unfit[0]['method']}: {unfit[0]['why']}")
    document = evaluate.comparison(done(work, fit))
    first, *others = document["runs"]
    told = [
        {**run, "layer": layer, "series": str(spec)}
        for run, (spec, layer, _) in zip(others, chosen, strict=True)
    ]
    document["runs"] = [{**first, "layer": None, "series": None}, *told]
    return document
