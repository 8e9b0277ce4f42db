"""What hangs on a compressed base model beside its compressor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from foveate.core.compressor import Compressor
from foveate.hosts import traits
from foveate.hosts.switches import Switches
from foveate.hosts.trace import Trace


@dataclass(eq=False)
class Attachment:
    """What `compress` was told, what `restore` takes off again, and what the last call left to be read."""

    switches: Switches
    selected: dict[str, Any]  # what of the tower the features are, as the config said
    layered: bool  # whether decoder layers are met on the way
    handles: list[Any] = field(default_factory=list)
    tapped: list[nn.Module] = field(default_factory=list)
    frozen: list[nn.Parameter] = field(default_factory=list)  # of the projector, as it never runs
    traces: list[Trace] = field(default_factory=list)
    counts: list[int] | None = None
    step: int | None = None
    max_steps: int | None = None
    ladder: Any = None  # what stands in the place of `generate`, or nothing
    resting: bool = False  # whether the model answers with all its tokens for now

    @property
    def told(self) -> dict[str, Any]:
        """What `attach.compress` was told beside the method."""
        ladder = {} if self.ladder is None else {"ladder": self.ladder.described}
        return {**self.switches.told, **ladder}

    def acting(self, base: nn.Module) -> list[Compressor]:
        """The compressors that act now, in flow order.

        Raises RuntimeError in training with a schedule that was not told how far training is.
        """
        method = base.visual_compressor
        if self.resting:
            return []
        if not (base.training and method.scheduled):
            return method.at(1.0).parts()
        if self.step is None:
            raise RuntimeError(
                "training with a schedule: foveate.set_progress(model, step, max_steps) must say how far"
            )
        return method.at(self.step / self.max_steps).parts()


def is_compressed(model: nn.Module) -> bool:
    """Whether a compressor is attached."""
    return hasattr(getattr(traits.unwrapped(model), "model", None), "visual_attachment")


def attachment_of(model: nn.Module) -> Attachment:
    """What hangs on a model. Raises ValueError if it is not compressed."""
    base = traits.base_of(model)
    if not is_compressed(model):
        raise ValueError(
            f"this {type(model).__name__} is not compressed: call foveate.compress first"
        )
    return base.visual_attachment
