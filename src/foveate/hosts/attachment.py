"""What hangs on a compressed base model beside its compressor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from foveate.core.compressor import Compressor
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
