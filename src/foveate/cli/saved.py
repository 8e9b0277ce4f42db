"""Models that were saved with their compressor: as one run of `eval`, and as rows of `compare`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foveate.cli import arguments, models
from foveate.cli.work import BARE, Plan
from foveate.cli.wrong import Wrong

if TYPE_CHECKING:
    from foveate.core.spec import Spec

PROBES = 4  # questions on which two processors must agree


def saved_or(loaded: models.Loaded, spec: Spec | None) -> Plan:
    """What was asked for; else the compressor the checkpoint brought, else the bare model."""
    import foveate

    if spec is not None and spec.slug != BARE:
        keep = getattr(spec.tried(), "keep", None) if spec.keep is None else spec.keep
        return Plan(str(spec), keep, spec)
    if spec is None and foveate.is_compressed(loaded.model):
        saved = as_saved(loaded)
        if saved.method != BARE:
            return saved
    return Plan(BARE, 1.0)


def as_saved(loaded: models.Loaded) -> Plan:
    """The run of a model with the compressor it was saved with."""
    from foveate.hosts.saving import settings

    base, saved = loaded.model.model, loaded.model.config.visual_compression
    compressor = base.visual_compressor
    method = saved.get("method", saved["compressor"].lower())
    keep = 1.0 if method == BARE else getattr(compressor.parts()[-1], "keep", None)
    return Plan(method, keep, None, compressor, settings(saved))


def adjust(loaded: models.Loaded, keep: str | None, pairs: Sequence[str]) -> None:
    """Give a model that was saved with a method another budget, or other arguments, on the same weights.

    Raises Wrong for a bare model, and for what its method or its weights do not take.
    """
    import foveate

    if keep is None and not pairs:
        return
    saved = as_saved(loaded) if foveate.is_compressed(loaded.model) else None
    if saved is None or saved.method == BARE:
        raise Wrong(
            "--keep and --set are a method's: say which with --method, such as --method fastv"
        )
    budget = None if keep is None else arguments.budget(keep)
    given = arguments.settings(saved.method, pairs)
    changes = given if budget is None else {**given, "keep": budget}
    try:
        foveate.compress(loaded.model, saved.compressor.but(**changes), **saved.how)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Wrong(f"{loaded.name} was saved with {saved.method}: {error}") from error


def own(loaded: models.Loaded) -> Plan | None:
    """The row of a model as it was saved, beside it bare; None if it was saved without a compressor.

    Ask before anything else is attached: then the model no longer knows.
    """
    saved = saved_or(loaded, None)
    if saved.method == BARE:
        return None
    return saved._replace(trained=replace(loaded, name=f"{loaded.name} as saved"))


def acting(loaded: models.Loaded, spec: Spec | None) -> Plan:
    """What acts on a model now, which was asked for so."""
    compressor = loaded.model.model.visual_compressor
    return Plan(BARE if spec is None else str(spec), None, spec, compressor)


def remarks(loaded: models.Loaded, plans: Sequence[Plan], saved: Plan | None) -> list[str]:
    """What one must know of these runs: weights that nobody trained, a compressor that is left out.

    saved: the model with the compressor it was saved with, as `own` has it.
    """
    found = [
        f"{one.method} has fresh weights, never trained: train it (foveate train) or load a model saved "
        "with it"
        for one in plans
        if one.untrained
    ]
    ours = [one for one in plans if one.trained is None]
    if saved is not None and any(one.compressor is not saved.compressor for one in ours):
        found.append(_left_out(loaded.name, saved, ours))
    return list(dict.fromkeys(found))


def _left_out(name: str, saved: Plan, others: Sequence[Plan]) -> str:
    """What it means to run a model without the compressor it was saved with."""
    import foveate

    anew = any(one.method.partition("(")[0] == saved.method for one in others)
    hint = "; --method made its weights anew: without it, --keep and --set change what was saved"
    parts = saved.compressor.every()
    if any(part.site.tower == foveate.Tower.projector for part in parts):
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


def trained(
    names: str | None, compared: models.Loaded, examples: Sequence[Any], device: str
) -> list[Plan]:
    """Runs of models that were trained with a method, each bare and with its compressor in the plan.

    names has commas; None are those that come with the embedded model, beside it alone. They compute in
    the compared model's precision. Raises Wrong for a model that was saved without a compressor, and for
    one whose processor makes other prompts of the same questions.
    """
    import foveate

    found: list[Plan] = []
    for name in beside(compared.name) if names is None else arguments.listed(names):
        own = models.load(name, device, compared.protocol)
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

    asks = [(e.images, e.question) for e in examples]
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
