"""How every command begins: the model, with what it was saved with or what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from foveate.cli import arguments, models, output, starting
from foveate.cli.wrong import Wrong

if TYPE_CHECKING:
    from foveate.core.spec import Spec
    from foveate.evaluate.plans import Loaded, Plan

PROBES = 4  # questions on which two processors must agree


class Opened(NamedTuple):
    """A model that is ready, the method that was asked for, and its row as it was saved.

    spec   None leaves the model as it was saved, but for what --keep and --set changed
    saved  None for one that was saved without a compressor
    """

    loaded: Loaded
    spec: Spec | None
    saved: Plan | None

    def tell(self, plans: Sequence[Plan] | None = None) -> list[str]:
        """Tell a person what to know of these runs; of what acts now, unless told."""
        from foveate.evaluate.plans import remarks

        told = remarks(self.loaded.name, [self.acting] if plans is None else plans, self.saved)
        for remark in told:
            output.note(remark)
        return told

    @property
    def plan(self) -> Plan:
        """The run to make: what was asked for; else the compressor the checkpoint brought, else bare."""
        from foveate.evaluate.plans import BARE, Plan

        if self.spec is not None and self.spec.slug != BARE:
            keep = self.spec.keep
            keep = getattr(self.spec.tried(), "keep", None) if keep is None else keep
            keep = None if "ladder" in self.spec.switches else keep
            return Plan(str(self.spec), keep, self.spec)
        as_it_is = self.spec is None and self.saved is not None
        return self.saved._replace(trained=None) if as_it_is else Plan(BARE, 1.0)

    @property
    def acting(self) -> Plan:
        """What acts on the model now, which was asked for so."""
        from foveate.evaluate.plans import BARE, Plan

        compressor = self.loaded.model.model.visual_compressor
        return Plan(BARE if self.spec is None else str(self.spec), None, self.spec, compressor)


def opened(
    name: str,
    device: str,
    protocol: str | None = None,
    spec: Spec | None = None,
    keep: str | None = None,
    pairs: Sequence[str] = (),
    trust: Sequence[str] = (),
    switches: Mapping[str, str] = MappingProxyType({}),
    headless: bool = False,
) -> Opened:
    """The model of a command. keep and pairs, without a method, change what it was saved with.

    A class of one's own that the model was saved with keeps its weights, with the arguments given here.
    trust: such classes by name, beside that of spec; switches, headless as in `models.load`. Raises Wrong
    and Failed as that does, and Wrong for changes that what was saved does not take.
    """
    starting.load("foveate.evaluate")
    from foveate import evaluate

    output.hush()
    mine = spec is not None and ":" in spec.slug
    typed = [*trust, *([spec.slug] if mine else [])]
    own = [one for one in typed if ":" in one]
    ladder: dict[str, Any] = {}
    if spec is not None and not spec.saved:
        ladder = {n: told for n, told in spec.switches.items() if n == "ladder"}
        switches = {n: told for n, told in {**spec.switches, **switches}.items() if n not in ladder}
    loaded = models.load(name, device, protocol, own, switches, headless)
    loaded = replace(loaded, switches={**loaded.switches, **ladder})
    if spec is not None and spec.saved:
        _climb(loaded, evaluate.plans.own(loaded), spec)
        spec = None
    elif spec is None:
        _adjust(loaded, *_changes(loaded, keep, pairs))
    elif spec.chosen is not None and not headless:
        _tell_other(loaded, *spec.chosen)
    saved = evaluate.plans.own(loaded)
    if mine and saved is not None and type(saved.compressor) is spec.make:
        _adjust(loaded, saved, _with(spec.arguments, spec.keep))
        spec, saved = None, evaluate.plans.own(loaded)
    return Opened(loaded, spec, saved)


def _climb(loaded: Loaded, saved: Plan | None, spec: Spec) -> None:
    """Give a model that was saved with a method a ladder of budgets, on the same weights.

    Raises Wrong for one that was saved with another method, or none, or that has other weights.
    """
    from foveate.hosts import attach

    if saved is None or saved.method != spec.slug:
        have = "none" if saved is None else saved.method
        raise Wrong(
            f"the ladder is of a model saved with {spec.slug}, and {loaded.name} has {have}"
        )
    how = {**saved.how, **spec.switches}
    try:
        attach.compress(loaded.model, saved.compressor.but(keep=spec.keep), **how)
    except ValueError as error:
        raise Wrong(str(error)) from error


def _tell_other(loaded: Loaded, name: str, weights: str) -> None:
    """Say so where a setting was chosen for another model."""
    from foveate.hosts.whole import fingerprint

    if fingerprint(loaded.model) != weights:
        output.note(
            f"this setting was chosen for {name}, and {loaded.name} has other weights: `foveate tune` finds "
            "its own"
        )


def _changes(
    loaded: Loaded, keep: str | None, pairs: Sequence[str]
) -> tuple[Plan | None, dict[str, Any]]:
    """What a model was saved with, and which arguments of it are given. Raises Wrong for a bare model."""
    from foveate import evaluate

    if keep is None and not pairs:
        return None, {}
    saved = evaluate.plans.own(loaded)
    if saved is None:
        raise Wrong(
            "--keep and --set are a method's: say which with --method, such as --method fastv"
        )
    budget = None if keep is None else arguments.budget(keep)
    return saved, _with(arguments.settings(saved.method, pairs), budget)


def _with(given: Any, keep: int | float | None) -> dict[str, Any]:
    return {**given} if keep is None else {**given, "keep": keep}


def _adjust(loaded: Loaded, saved: Plan | None, changes: dict[str, Any]) -> None:
    """Give a model that was saved with a method other arguments, on the same weights.

    Raises Wrong for what its method or its weights do not take.
    """
    import foveate

    if not changes:
        return
    try:
        changed = saved.at(**changes)
        foveate.compress(loaded.model, changed.compressor, **changed.how)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Wrong(f"{loaded.name} was saved with {saved.method}: {error}") from error


def trained(
    names: str | None,
    compared: Loaded,
    examples: Sequence[Any],
    device: str,
    trust: Sequence[str] = (),
) -> list[Plan]:
    """Runs of models that were trained with a method, each bare and with its compressor in the plan.

    names has commas; None are those that come with the embedded model, beside it alone. They compute in
    the compared model's precision. Raises Wrong for a model that was saved without a compressor, and for
    one whose processor makes other prompts of the same questions.
    """
    import foveate
    from foveate.evaluate.plans import as_saved

    found: list[Plan] = []
    for name in beside(compared.name) if names is None else arguments.listed(names):
        own = models.load(name, device, compared.protocol, trust, compared.switches)
        if not foveate.is_compressed(own.model):
            raise Wrong(
                f"--trained {name}: it was saved without a compressor; its own comparison is --model {name}"
            )
        if other := differing(compared.processor, own.processor, examples[:PROBES]):
            raise Wrong(
                f"--trained {name}: its processor asks differently than that of {compared.name} ({other}), "
                "so the two would not answer the same questions"
            )
        taken = [compared.name, *(one.trained.name for one in found)]
        own = replace(own, name=free((own.name, name, f"{name} as saved"), taken))
        plan = as_saved(own)._replace(trained=own)
        foveate.restore(own.model).to(compared.model.dtype)
        found.append(plan)
    return found


def beside(name: str) -> list[str]:
    """The trained models that this copy of foveate carries, for the embedded model; none for others."""
    from foveate.embedded import compressed

    return compressed() if name == models.EMBEDDED else []


def differing(ours: Any, theirs: Any, examples: Sequence[Any]) -> str:
    """What two processors make of the same questions, where it is not the same; empty where it is."""
    import torch

    from foveate import evaluate

    asks = [evaluate.ask(e) for e in examples]
    try:
        a, b = (evaluate.encode(processor, asks)[0] for processor in (ours, theirs))
    except ValueError as error:  # such as a template that leaves the image out
        return str(error)
    for name in sorted({*a, *b}):
        if name not in a or name not in b:
            return f"only one gives {name}"
        if a[name].shape != b[name].shape:
            return f"{name} {tuple(b[name].shape)}, not {tuple(a[name].shape)}"
        if not torch.equal(a[name], b[name]):
            return f"other {name}"
    return ""


def free(names: Iterable[str], taken: Sequence[str]) -> str:
    """The first of these names that nothing else has, so that rows can be told apart."""
    *others, last = names
    return next((name for name in others if name not in taken), last)
