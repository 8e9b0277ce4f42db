"""What one forward pass, and one generation, know of their visual tokens.

Letters: B prompts, S columns of the language model's input, I images, P patches, N tokens, M after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compressor import Compressor
from foveate.hosts.positions import Cut
from foveate.hosts.trace import Step
from foveate.tokens import VisualTokens

KEY = "visual_flow"  # the keyword under which a Flow travels through a model's forward


@dataclass(eq=False)
class Stage:
    """The sequence from one decoder layer on, until the next stage.

    columns    (B, M) which column of the language model's input stands in each place
    back       (B, S) for every column of that input, the place that speaks for it now
    real       (B, M) False where a row is padded, of the prompt or because rows keep different numbers
    full       whether no row is padded
    position   (B, M) position ids if they are not simply those of `columns`
    dropped    (B,) how many columns left since the language model's input
    views      what the model prepared for all columns, cut to these: id → (the original, the view)
    """

    columns: Tensor
    back: Tensor
    real: Tensor
    full: bool
    position: Tensor | None
    dropped: Tensor
    views: dict[Any, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class Memory:
    """What decoding must remember of a compressed prompt; it hangs on the cache it belongs to.

    outside    columns of the prompt as the caller knows it
    length     columns that entered the language model
    real       (B, length) False where padded; None if nothing is
    following  (B,) position id of the next token, as the caller counts
    shift      (B,) what renumbering takes off later position ids; None for original positions
    renumbered whether positions were counted anew, also inside the language model
    stages     the stages inside the language model, by layer
    """

    outside: int
    length: int
    real: Tensor | None
    following: Tensor
    shift: Tensor | None
    renumbered: bool
    stages: dict[int, Stage] = field(default_factory=dict)


@dataclass(eq=False)
class Flow:
    """One forward pass. The outer hook makes it, the base hook fills it, decoder layers read it.

    It is an argument, not state: it comes in with the call and is gone with it.
    """

    labels: Tensor | None = None
    instruction_mask: Tensor | None = None
    logits_to_keep: int = 0
    outer: bool = False

    decoder: nn.Module | None = None
    inside: dict[int, list[Compressor]] = field(default_factory=dict)
    training: bool = False
    step: int | None = None
    prefill: bool = False
    fed: int | None = None  # columns a later call came with
    tail: Tensor | None = None  # (B, columns behind the prompt) which of them are real
    gapped: bool = False
    renumber: bool = False
    cut: Cut | None = None
    memory: Memory | None = None

    prompt: Tensor | None = None  # (I,) the row each image stands in
    patches: Tensor | None = None  # (I, P) position id of each patch in the uncompressed prompt
    tokens: VisualTokens | None = None
    place: Tensor | None = None  # (I, N) column of each token now
    grid: Tensor | None = None  # (I, P, 3)
    real: Tensor | None = None  # (B, S) the language model's input, False where padded
    instruction: Tensor | None = None  # (B, S) columns of the instruction
    asking: Tensor | None = None  # (B, S) every real column before the first answer, images too
    text: Tensor | None = None  # (B, S', D) embeddings of the uncompressed prompt
    text_mask: Tensor | None = None

    stages: dict[int, Stage] = field(default_factory=dict)
    landed: dict[int, tuple[VisualTokens, Tensor]] = field(default_factory=dict)
    later: dict[tuple, Any] = field(default_factory=dict)
    scores: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    penalty: Tensor | float = 0.0
    steps: list[Step] = field(default_factory=list)
    copies: int = 1

    def stage(self, layer: int) -> Stage | None:
        """The stage that decoder layer `layer` lives in; None while nothing has left."""
        reached = [k for k in self.stages if k <= layer]
        return self.stages[max(reached)] if reached else None

    def generators(self, seed: int) -> tuple[torch.Generator, ...]:
        """One generator per image: seeded alike at inference, by step and sample in training.

        Raises RuntimeError in training if nobody said which step it is.
        """
        if self.training and self.step is None:
            raise RuntimeError(
                "training with random draws: foveate.set_progress(model, step, max_steps) must say the step"
            )
        samples = range(len(self.prompt))
        mix = [seed if not self.training else _mix(seed, self.step, i) for i in samples]
        return tuple(torch.Generator().manual_seed(m) for m in mix)


def _mix(seed: int, step: int, sample: int) -> int:
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + sample + 1) % 2**63
