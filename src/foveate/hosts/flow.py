"""What one forward pass, and one generation, know of their visual tokens.

A `Flow` travels through the model's forward as a keyword: an argument, not state. Its pieces are made whole,
each by one function, and never change; only `Path` and `Memory` grow, from layer to layer:

    Call                     what the call came with
    Images Columns Prompt    what is known before the language model
    Landing Stage Path       the way through its layers
    Memory Later             of later calls on the same cache

Letters: B prompts, S columns of the language model's input, I images, P patches, N tokens, M after,
A axes of position ids (one, or the three of M-RoPE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from foveate.core.compressor import Compressor
from foveate.core.tokens import VisualTokens
from foveate.hosts.newlines import Newlines
from foveate.hosts.positions import Cut
from foveate.hosts.switches import Switches
from foveate.hosts.trace import Step

if TYPE_CHECKING:
    from foveate.hosts.prompted import PromptGlance
    from foveate.hosts.samples import Draws

KEY = "visual_flow"  # the keyword under which a Flow travels through a model's forward


@dataclass(frozen=True, eq=False)
class Call:
    """What a call came with that no base model is told. hooks.py makes it, calls.py and asked.py read it.

    labels            (B, S)  or None
    instruction_mask  (B, ≤ S)  or None
    instruction_ids   (B, T)  of an instruction that is not in the prompt; or None
    logits_to_keep    how many columns the head is asked for; 0 for all
    outer             whether the whole model was called, which adds a penalty to its loss
    """

    labels: Tensor | None = None
    instruction_mask: Tensor | None = None
    instruction_ids: Tensor | None = None
    logits_to_keep: int = 0
    outer: bool = False


@dataclass(frozen=True, eq=False)
class Images:
    """The images and videos of the prompts. before.py makes it, inside.py reads it.

    count     how many; the copies that beams make of them stand behind
    row       (I,)       the prompt each stands in
    patches   (A, I, P)  position ids of each patch in the uncompressed prompt
    known     Context fields that hold at every site: grid, overview, text, text_ids, text_mask
    newlines  or None
    words     (I,)       how many of the instruction's words stand behind each
    """

    count: int
    row: Tensor
    patches: Tensor
    known: Mapping[str, Tensor]
    newlines: Newlines | None
    words: Tensor


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of the prompts, (B, S) each. asked.py makes it, drop.py cuts it, prompted.py reads it.

    real         False where padded
    instruction  columns of the instruction
    asking       every real column before the first answer, images too
    """

    real: Tensor
    instruction: Tensor
    asking: Tensor

    def left(self, cut: Cut) -> Columns:
        """The columns that stay."""
        taken = (cut.take(mask, fill=False) for mask in (self.instruction, self.asking))
        return Columns(cut.valid, *taken)


@dataclass(frozen=True, eq=False)
class Stage:
    """The sequence from one decoder layer on. inside.py makes it and reads it, later.py too.

    columns    (B, M) which column of the language model's input stands in each place
    back       (B, S) for every column of that input, the place that speaks for it now
    real       (B, M) False where a row is padded, of the prompt or because rows keep different numbers
    full       whether no row is padded
    position   (A, B, M) position ids if they are not simply those of `columns`
    shift      (B,) what renumbering takes off later position ids; None for original positions
    weight     (B, M) what every look at a column has added, as proportional.py has it; None for nothing
    views      what the model prepared for all columns, cut to these: id → (the original, the view)
    """

    columns: Tensor
    back: Tensor
    real: Tensor
    full: bool
    position: Tensor | None
    shift: Tensor | None
    weight: Tensor | None = None
    views: dict[Any, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def unseen(self) -> Stage:
        """The stage without its views: a cache need not keep masks of the prompt alive."""
        return replace(self, views={})


@dataclass(frozen=True, eq=False)
class Landing:
    """What the compressors of one site left. before.py makes the first, inside.py one at each later site.

    tokens   the tokens now, without vectors
    place    (I, N) the columns they stand in
    stage    the sequence from here on; None where none of it left
    penalty  theirs
    steps    one for each compressor
    """

    tokens: VisualTokens
    place: Tensor
    stage: Stage | None
    penalty: Tensor | float
    steps: Sequence[Step]

    @classmethod
    def of(
        cls, tokens: VisualTokens, place: Tensor, steps: Sequence[Step], stage: Stage | None = None
    ) -> Landing:
        """Of tokens with vectors."""
        nothing = tokens.x.new_empty(*tokens.x.shape[:-1], 0)  # a view would hold them all
        return cls(tokens.carry(nothing), place, stage, tokens.penalty, steps)


@dataclass(eq=False)
class Memory:
    """What decoding must remember of a compressed prompt; it hangs on the cache it belongs to.

    before.py makes it, hooks.py adds stages, later.py reads it.

    outside    columns of the prompt as the caller knows it
    length     columns that entered the language model
    following  (B,) position id of the next token, as the caller counts
    renumbered whether positions were counted anew, also inside the language model
    real       (B, length) False where padded; None if nothing is
    shift      (B,) what renumbering takes off later position ids; None for original positions
    weight     (B, length) as that of a stage, of the columns that entered
    stages     the stages inside the language model, by layer
    """

    outside: int
    length: int
    following: Tensor
    renumbered: bool
    real: Tensor | None = None
    shift: Tensor | None = None
    weight: Tensor | None = None
    stages: dict[int, Stage] = field(default_factory=dict)

    @property
    def layered(self) -> bool:
        """Whether decoder layers must be told of it."""
        return bool(self.stages) or self.weight is not None

    def stage(self, layer: int) -> Stage | None:
        """The stage that decoder layer `layer` lives in; None below the first."""
        return _latest(self.stages, layer)

    def weight_in(self, stage: Stage | None) -> Tensor | None:
        """(B, columns) what every look at a column has added in this stage; None for nothing."""
        return self.weight if stage is None else stage.weight


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt on its way into the language model. before.py makes it, inside.py and hooks.py read it.

    decoder  the language model
    inside   the compressors that act in it, by layer
    draws    what their random draws follow
    traced   whether somebody wants to see what compressors go by
    switches how the host treats every compressor
    entry    what compressors before the language model left
    cut      the columns that entered it; None if all did
    """

    decoder: nn.Module
    inside: Mapping[int, Sequence[Compressor]]
    draws: Draws
    traced: bool
    switches: Switches
    images: Images
    columns: Columns
    entry: Landing
    memory: Memory
    cut: Cut | None = None

    @property
    def gapped(self) -> bool:
        """Whether position ids skip columns that left."""
        return self.cut is not None and not self.memory.renumbered


@dataclass(eq=False)
class Path:
    """The way of a prompt through the decoder layers. hooks.py makes it and adds to it, inside.py reads it.

    position  (A, B, S) position ids that entered the language model, by axis
    landings  what the compressors before each layer left; those before the language model at 0
    glances   what attention shows, of the layer before or of its own, by the layer whose compressors asked
    previous  (B, S', D) what entered the layer before, by the layer whose compressors asked
    raters    (I, S) the instruction's rows that a compressor goes by, where it chooses
    deep      (I, P, D) to add after each of the first layers
    masks     with what columns weigh, by the weights: as `Stage.views`
    """

    position: Tensor
    landings: dict[int, Landing]
    glances: dict[int, PromptGlance] = field(default_factory=dict)
    previous: dict[int, Tensor] = field(default_factory=dict)
    raters: Mapping[Compressor, Tensor] = field(default_factory=dict)
    deep: Sequence[Tensor] = ()
    masks: dict[int, dict[Any, tuple[Any, Any]]] = field(default_factory=dict)

    def landing(self, layer: int) -> Landing:
        """What reaches the compressors before decoder layer `layer`."""
        return _latest(self.landings, layer - 1)

    def stage(self, layer: int) -> Stage | None:
        """The stage that decoder layer `layer` lives in; None while nothing has left."""
        found = {k: landing.stage for k, landing in self.landings.items() if landing.stage}
        return _latest(found, layer)


@dataclass(frozen=True, eq=False)
class Later:
    """A later call on the cache of a compressed prompt. later.py makes it, and reads it with hooks.py.

    memory    of the prompt
    decoder   the language model
    fed       columns the call came with
    tail      (B, columns behind the prompt) which of them are real; None if all are
    same      whether layers above a cut take what the model prepares for all, if no window is in the way
    position  (A, B, new) position ids that entered the language model, by axis
    views     masks and rotary embeddings made for stages, by stage and kind of layer
    """

    memory: Memory
    decoder: nn.Module
    fed: int
    tail: Tensor | None
    same: bool = False
    position: Tensor | None = None
    views: dict[Any, Any] = field(default_factory=dict)


class Flow:
    """One forward pass, as it travels: its call, and what that is, a prompt or a later call. By hooks.py.

    No dataclass: FSDP looks into those among a module's arguments, and would hand every layer a copy.
    """

    def __init__(self, call: Call | None = None):
        self.call = call or Call()
        self.prompt: Prompt | None = None
        self.path: Path | None = None
        self.later: Later | None = None

    def entered(self, position: Tensor) -> None:
        """Begin the way through the layers at these position ids (A, B, S)."""
        if self.prompt is not None:
            self.path = Path(position, {0: self.prompt.entry})
        elif self.later is not None:
            self.later = replace(self.later, position=position)

    @property
    def landings(self) -> list[Landing]:
        """What compressors left so far, in flow order; none without a prompt of images."""
        return [] if self.path is None else list(self.path.landings.values())

    @property
    def penalty(self) -> Tensor | float:
        """The auxiliary loss that compressors gathered."""
        return sum(landing.penalty for landing in self.landings)


def _latest(found: Mapping[int, Any], layer: int) -> Any:
    """What was noted at a layer, or at the last one before it where something was; None if nowhere."""
    reached = [k for k in found if k <= layer]
    return found[max(reached)] if reached else None
