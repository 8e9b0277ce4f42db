"""Attach a compressor to a model, in place, and take it off again without a trace."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from foveate.core.compressor import Compressor, Tower
from foveate.core.ops import real
from foveate.hosts import (
    before,
    calls,
    checks,
    encode,
    glance,
    hooks,
    proportional,
    saving,
    traits,
    versions,
)
from foveate.hosts.attachment import Attachment, attachment_of, is_compressed
from foveate.hosts.climbing import climbing
from foveate.hosts.switches import POSITIONS, Switches
from foveate.hosts.trace import Trace

Model = TypeVar("Model", bound=nn.Module)


def compress(
    model: Model,
    method: Compressor,
    positions: str = POSITIONS[0],
    ladder: Mapping[str, Any] | None = None,
    **switches: str,
) -> Model:
    """`foveate.compress`, of a compressor that is made: attach it, in place.

    ladder: as `climbing.Climbing.described`, whose first budget is the method's; `generate` obeys it.
    """
    if not isinstance(method, Compressor):
        raise TypeError(f"want a foveate.Compressor, made with its arguments, got {method!r}")
    told = Switches(positions, **switches)
    base, whole = traits.base_of(model), traits.unwrapped(model)
    versions.check()
    versions.check_family(base.config.model_type)
    tapped = checks.check(base, method)
    if told.proportional:
        proportional.check(traits.decoder_of(base))
    layered = hooks.layered(base, method, told)
    climbs = None if ladder is None else climbing(traits.unwrapped(model), ladder)
    attachment = Attachment(told, traits.selection(base), layered, ladder=climbs)
    if is_compressed(model):
        earlier = base.visual_attachment
        attachment.traces, attachment.step = earlier.traces, earlier.step
        attachment.max_steps = earlier.max_steps
        attachment.layered |= earlier.layered  # caches may live on that it made
        restore(model)
    like = next(base.parameters())
    device = None if like.device.type == "meta" else like.device  # offloaded: on the method's own
    base.visual_compressor = method.to(device=device, dtype=like.dtype).train(model.training)
    base.visual_attachment = attachment
    base.__class__ = compressed_class(type(base))
    for module, shows in tapped.items():
        glance.tap(module, shows)
        attachment.tapped.append(module)
    attachment.frozen = [p for p in idle(base) if p.requires_grad]
    for parameter in attachment.frozen:
        parameter.requires_grad_(False)
    attachment.handles = hooks.register(whole, base, attachment)
    # Its errors stay in a thread of transformers' own, so it is refused before there is one.
    whole.init_continuous_batching = calls.refuse_continuous
    if climbs is not None:
        whole.generate = climbs
    whole.config.visual_compression = saving.describe(method, told, ladder)
    return model


def idle(base: nn.Module) -> list[nn.Parameter]:
    """The parameters that never run: the projector's, where a compressor always is in its place."""
    method = getattr(base, "visual_compressor", None)
    if method is None or method.scheduled:
        return []
    if all(part.site.tower != Tower.projector for part in method.parts()):
        return []
    return list(traits.projector_of(base)[0].parameters())


def warm_start(model: Model) -> Model:
    """Let the attached compressor begin as what it stands in for: the old projector, then average pooling.

    For methods that say so, such as LLaVASTF. Raises ValueError for others, and for projectors that the
    method cannot be made equal to; its weights are then what they were.
    """
    attachment_of(model)
    base = traits.base_of(model)
    method = base.visual_compressor
    weighted = [part for part in method.every() if any(True for _ in part.parameters())]
    if not weighted:
        raise ValueError(f"{type(method).__name__} has no weights that could begin as something")
    if any(p.is_meta for p in [*method.parameters(), *base.parameters()]):
        raise ValueError("weights are offloaded, or on the meta device: start warm before that")
    state = copy.deepcopy(method.state_dict())
    try:
        for part in weighted:
            part.warm_start(traits.projector_of(base)[0])
    except ValueError:
        method.load_state_dict(state)
        raise
    return model


def restore(model: Model) -> Model:
    """Exactly the model it was, whatever happened in between. Does nothing to a bare model."""
    base = traits.base_of(model)
    if not is_compressed(model):
        return model
    checks.refuse_shards(base)
    attachment = base.visual_attachment
    for handle in attachment.handles:
        handle.remove()
    for module in attachment.tapped:
        glance.untap(module)
    for parameter in attachment.frozen:
        parameter.requires_grad_(True)
    base.__class__ = type(base).__bases__[0]
    del base.visual_attachment
    del base.visual_compressor
    own = vars(traits.unwrapped(model))
    own.pop("init_continuous_batching", None)
    if attachment.ladder is not None:
        own.pop("generate", None)
    for config in (traits.unwrapped(model).config, base.config):
        if hasattr(config, "visual_compression"):
            del config.visual_compression
    return model


@contextmanager
def compressed(
    model: Model, method: Compressor, positions: str = POSITIONS[0], **how: Any
) -> Iterator[Model]:
    """`foveate.compressed`, of a compressor that is made."""
    with lent(model):
        compress(model, method, positions, **how)
        yield model


@contextmanager
def lent(model: nn.Module) -> Iterator[None]:
    """Whatever is attached inside, afterwards the model is what it was before."""
    base, before = traits.base_of(model), None
    if is_compressed(model):
        before = base.visual_compressor, base.visual_attachment.told
    try:
        yield
    finally:
        if before is None:
            restore(model)
        else:
            method, told = before
            compress(model, method, **told)


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Inside, a compressed model answers with all its tokens, as its weights do without the compressor.

    Where a compressor stands in the projector's place, that is through the old projector.
    """
    attachment = attachment_of(model)
    before, attachment.resting = attachment.resting, True
    try:
        yield
    finally:
        attachment.resting = before


@contextmanager
def trace(model: nn.Module) -> Iterator[Trace]:
    """Look at what becomes of the images: `with foveate.trace(model) as seen: …; seen.steps`.

    Raises ValueError if the model is not compressed.
    """
    attachment, seen = attachment_of(model), Trace()
    attachment.traces.append(seen)
    try:
        yield seen
    finally:
        attachment.traces[:] = [t for t in attachment.traces if t is not seen]


def last_counts(model: nn.Module) -> list[int] | None:
    """Tokens left of each image at the end of the last prefill; None before the first.

    Raises ValueError if the model is not compressed.
    """
    return attachment_of(model).counts


def set_progress(model: nn.Module, step: int, max_steps: int) -> None:
    """Say how far training is, at the beginning of an optimizer step; schedules and random draws follow.

    Raises ValueError unless 0 <= step <= max_steps and max_steps >= 1, or if the model is not compressed.
    """
    now, end = real(step), real(max_steps)
    whole = isinstance(now, int) and isinstance(end, int)
    if not whole or not 0 <= now <= end or end < 1:
        raise ValueError(
            f"step={step!r} of max_steps={max_steps!r}: want ints, 0 <= step <= max_steps >= 1"
        )
    attachment = attachment_of(model)
    attachment.step, attachment.max_steps = now, end


@functools.cache
def compressed_class(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a base model's class that encodes images for compression.

    It bears the original's name, so that saved files do, and pickles as "the original, compressed".
    """

    def encoding(modality: str) -> Callable[..., Any]:
        own = getattr(cls, f"get_{modality}_features")

        @functools.wraps(own)
        def get_features(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            attachment = self.visual_attachment
            parts = [p for p in attachment.acting(self) if p.site <= before.ENTRY]
            checks.refuse_reselected(self, attachment.selected, parts)
            return encode.encode(self, own, modality, parts, *args, **kwargs)

        return get_features

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:  # noqa: N807
        return _blank, (cls,), self.__dict__.copy()

    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    seeing = {
        name: encoding(modality)
        for modality in traits.MODALITIES
        if hasattr(cls, name := f"get_{modality}_features")
    }
    own = {"__reduce_ex__": __reduce_ex__}
    return type(cls.__name__, (cls,), names | seeing | own)


def _blank(cls: type[nn.Module]) -> nn.Module:
    compressed = compressed_class(cls)
    return compressed.__new__(compressed)
