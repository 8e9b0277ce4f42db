"""What one forward pass, and one generation, know of their visual tokens.

Letters: B prompts, S columns of the language model's input, I images, P patches, N tokens, M after,
A axes of position ids (one, or the three of M-RoPE).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor
from foveate.core.tokens import VisualTokens
from foveate.hosts.positions import Cut
from foveate.hosts.trace import Step

KEY = "visual_flow"  # the keyword under which a Flow travels through a model's forward


@dataclass(eq=False)
class Stage:
    """The sequence from one decoder layer on, until the next stage.

    columns    (B, M) which column of the language model's input stands in each place
    back       (B, S) for every column of that input, the place that speaks for it now
    real       (B, M) False where a row is padded, of the prompt or because rows keep different numbers
    full       whether no row is padded
    position   (A, B, M) position ids if they are not simply those of `columns`
    shift      (B,) what renumbering takes off later position ids; None for original positions
    views      what the model prepared for all columns, cut to these: id → (the original, the view)
    """

    columns: Tensor
    back: Tensor
    real: Tensor
    full: bool
    position: Tensor | None
    shift: Tensor | None
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
class Newlines:
    """The newline embeddings of each image: no compressor sees them, no budget counts them.

    x       (I, Q, D)  vectors
    column  (I, Q)     where they stand, -1 behind the last
    closes  (I, P)     which newline closes the row that a patch stands in; -1 none
    """

    x: Tensor
    column: Tensor
    closes: Tensor

    def alive(self, tokens: VisualTokens) -> Tensor:
        """(I, Q) which newlines stay: one leaves when its row held patches and no token stands there now."""
        anchor = tokens.anchor.clamp(max=self.closes.shape[1] - 1)
        closes = self.closes.gather(1, anchor).masked_fill(~tokens.valid, -1)
        return (self._among(closes) | ~self._among(self.closes)) & (self.column >= 0)

    def _among(self, closes: Tensor) -> Tensor:
        """(I, Q) which newlines are among these. closes (I, …), -1 is none of them."""
        Q = self.x.shape[1]
        found = torch.zeros(len(closes), Q + 1, dtype=torch.bool, device=closes.device)
        return found.scatter(1, closes % (Q + 1), True)[:, :-1]


@dataclass(eq=False)
class Flow:
    """One forward pass. The outer hook makes it, the base hook fills it, decoder layers read it.

    It is an argument, not state: it comes in with the call and is gone with it.
    """

    labels: Tensor | None = None
    instruction_mask: Tensor | None = None
    instruction_ids: Tensor | None = None  # (B, T) of an instruction that is not in the prompt
    logits_to_keep: int = 0
    outer: bool = False

    decoder: nn.Module | None = None
    inside: dict[int, list[Compressor]] = field(default_factory=dict)
    training: bool = False
    traced: bool = False  # whether somebody wants to see what compressors go by
    step: int | None = None
    prefill: bool = False
    fed: int | None = None  # columns a later call came with
    tail: Tensor | None = None  # (B, columns behind the prompt) which of them are real
    gapped: bool = False
    renumber: bool = False
    closed: bool = True  # whether newlines stay where a compressor acts, with rows that are left
    cut: Cut | None = None
    memory: Memory | None = None

    pixels: dict[str, Tensor] = field(
        default_factory=dict
    )  # of each modality, to tell images apart
    samples: list[int] = field(default_factory=list)  # a number of each image's own, in training
    images: int = 0  # images and videos of the prompts; their copies for beams stand behind them
    prompt: Tensor | None = None  # (I,) the row each image stands in
    patches: Tensor | None = None  # (A, I, P) position ids of each patch in the uncompressed prompt
    tokens: VisualTokens | None = None
    place: Tensor | None = None  # (I, N) column of each token now
    grid: Tensor | None = None  # (I, P, 3)
    overview: Tensor | None = None  # (I, P)
    newlines: Newlines | None = None
    position: Tensor | None = (
        None  # (A, B, S) position ids that entered the language model, by axis
    )
    deep: list[Tensor] = field(
        default_factory=list
    )  # (I, P, D) to add after each of the first layers
    real: Tensor | None = None  # (B, S) the language model's input, False where padded
    instruction: Tensor | None = None  # (B, S) columns of the instruction
    asking: Tensor | None = None  # (B, S) every real column before the first answer, images too
    text: Tensor | None = None  # (I, T, D) embeddings of the instruction's words, for each image
    text_mask: Tensor | None = None  # (I, T)

    stages: dict[int, Stage] = field(default_factory=dict)
    landed: dict[int, tuple[VisualTokens, Tensor]] = field(default_factory=dict)
    later: dict[tuple, Any] = field(default_factory=dict)
    scores: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    penalty: Tensor | float = 0.0
    steps: list[Step] = field(default_factory=list)

    def stage(self, layer: int) -> Stage | None:
        """The stage that decoder layer `layer` lives in; None while nothing has left."""
        reached = [k for k in self.stages if k <= layer]
        return self.stages[max(reached)] if reached else None

    def landing(self, layer: int) -> tuple[VisualTokens, Tensor]:
        """The tokens as they reach decoder layer `layer`, without vectors, and their columns (I, N)."""
        reached = [k for k in self.landed if k < layer]
        return self.landed[max(reached)] if reached else (self.tokens, self.place)

    def known(self) -> dict[str, Tensor]:
        """The context fields that hold at every site."""
        names = ("grid", "overview", "text", "text_mask")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def generators(self, seed: int) -> tuple[torch.Generator, ...]:
        """One generator per image: seeded alike at inference, by step and sample in training.

        Raises RuntimeError in training if nobody said which step it is.
        """
        if self.training and self.step is None:
            raise RuntimeError(
                "training with random draws: foveate.set_progress(model, step, max_steps) must say the step, "
                "as foveate.ProgressCallback() does in a Trainer"
            )
        if not self.training:
            return tuple(torch.Generator().manual_seed(seed) for _ in self.prompt)
        mix = [_mix(seed, self.step, sample) for sample in self.samples]
        return tuple(torch.Generator().manual_seed(m) for m in mix)


def _mix(seed: int, step: int, sample: int) -> int:
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + sample + 1) % 2**63
