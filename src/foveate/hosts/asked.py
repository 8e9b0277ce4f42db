"""What the user asked: which columns of a prompt are its instruction, and its words; never an answer.

Told by the call (instruction_mask, instruction_ids), else by the block around it (`instruction`), else by
labels. Where nobody tells, the whole prompt is the instruction.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor
from foveate.core.ops import described
from foveate.hosts import calls, traits
from foveate.hosts.encode import Encoded
from foveate.hosts.flow import Call, Columns
from foveate.hosts.positions import Cut, padding_mask
from foveate.hosts.prompted import OF_LAST, PROMPT_ROWS
from foveate.hosts.rows import Rows

WORDS = frozenset({"text", "text_mask", "text_ids"})
READ = WORDS | PROMPT_ROWS  # the fields that come of the prompt


@dataclass(frozen=True, eq=False)
class _Told:
    mask: Tensor | None = None
    ids: Tensor | None = None


_told: ContextVar[_Told | None] = ContextVar("told", default=None)
_open: dict[_Told, int] = {}  # the thread of each block that tells something now
_born: WeakSet[threading.Thread] = WeakSet()  # those that began inside such a block and outlived it


@contextmanager
def instruction(mask: Tensor | None = None, ids: Tensor | None = None) -> Iterator[None]:
    """Say what is asked, for the calls inside: `with foveate.instruction(mask): model.generate(**inputs)`.

    mask  (B, S)  True where the prompt is instruction; as long as the prompt
    ids   (B, T)  of an instruction that stands in no prompt, -100 in padding: read instead of the prompt

    One row a prompt, however many beams or sequences `generate` makes of it. It is read where a prompt is
    compressed whose call has no instruction_mask or instruction_ids of its own, not by later calls on a
    filled cache. An inner block stands in for an outer one, an empty one for telling nothing.

    A thread does not see the blocks of another, of the one that started it neither. So open the block in
    the thread that calls the model, or start that thread with `contextvars.copy_context().run`:

        run = contextvars.copy_context().run
        Thread(target=run, args=(model.generate,), kwargs={**inputs, "streamer": streamer})

    A call that a compressor reads, in a thread without a block while another thread has one open, or that
    began inside of one, raises RuntimeError: the words may be its own. With nothing to tell, it wants an
    empty block.

    Raises TypeError and ValueError for anything else; the call, for rows and columns that do not fit.
    """
    for name, value in (("mask", mask), ("ids", ids)):
        if value is not None and not (isinstance(value, Tensor) and value.dim() == 2):
            raise TypeError(
                f"foveate.instruction: {name}: want a tensor of two dimensions, got {described(value)}"
            )
    if mask is not None and bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(
            f"foveate.instruction: mask: want True and False, got {described(mask)} with values up to "
            f"{mask.max()}; token ids are ids="
        )
    told, before = _Told(mask, ids), {*threading.enumerate()}
    token = _told.set(told)
    if mask is not None or ids is not None:
        _open[told] = threading.get_ident()
    try:
        yield
    finally:
        if _open.pop(told, None) is not None:
            _born.update({*threading.enumerate()} - before)
        _told.reset(token)


@contextmanager
def of_rows(rows: Sequence[int]) -> Iterator[None]:
    """Inside, what the block around tells is told of these prompts alone."""
    told = _told.get()
    if told is None:
        yield
        return
    mask, ids = (None if one is None else one[list(rows)] for one in (told.mask, told.ids))
    with instruction(mask, ids):
        yield


def read(
    base: nn.Module,
    kwargs: dict[str, Any],
    call: Call,
    seen: Rows,
    encoded: dict[str, Encoded],
    parts: Sequence[Compressor],
    copies: int,
) -> tuple[Columns, dict[str, Tensor]]:
    """The prompts' columns, and where a compressor reads it, each image's instruction: `WORDS`.

    parts: all compressors together; copies: how often each prompt stands there. Raises ValueError where
    nothing tells what a compressor reads, or there is nothing for it to read.
    """
    ids, needs = kwargs["input_ids"], frozenset().union(*(part.needs for part in parts))
    is_visual = traits.is_visual(base, ids)
    real = padding_mask(kwargs.get("attention_mask"), ids.shape[1])
    real = torch.ones_like(is_visual) if real is None else real
    length = min(_prompt_columns(one, kwargs) for one in encoded.values())
    call = _listen(base, call, ids, length, copies, bool(needs & READ))
    if length < ids.shape[1] and call.labels is None and call.instruction_mask is None:
        call = replace(call, instruction_mask=torch.ones_like(ids[:, :length]))
    columns = _columns(call, real, real & ~is_visual, needs, base.training)
    row, words = seen.prompt * copies, {}
    if needs & WORDS:
        words = _words(base, call, columns.instruction, ids, row)
    wanted = required(parts)
    _refuse_covered(call, columns, seen.prompt, wanted)
    _refuse_unseen(columns, words, seen, row, wanted)
    return columns, words


def _prompt_columns(encoded: Encoded, kwargs: dict[str, Any]) -> int:
    """Columns of the prompt: fewer than there are where the same images come back with one more column.

    Without a cache, generate recomputes the whole sequence at every step: what it wrote is no prompt.
    """
    ids = prompt = kwargs["input_ids"]
    if encoded.asked is not None and kwargs.get("use_cache") is False:
        asked, last = encoded.asked
        prompt = asked if _continues(ids, last) else ids
    encoded.asked = prompt, ids
    return prompt.shape[1]


def _continues(ids: Tensor, last: Tensor) -> bool:
    """Whether every row is one of the last call's and one more column; beams change places."""
    if len(ids) != len(last) or ids.shape[1] != last.shape[1] + 1:
        return False
    return bool((ids[:, None, :-1] == last).all(-1).any(1).all())


def _listen(
    base: nn.Module, call: Call, ids: Tensor, columns: int, copies: int, looks: bool
) -> Call:
    """The call, with what the block around it tells where it tells nothing itself.

    Raises ValueError and TypeError unless it fits the prompts, RuntimeError for a block out of sight.
    """
    told, prompts = _told.get(), len(ids) // copies
    if call.instruction_mask is not None or call.instruction_ids is not None:
        return call
    if told is None:
        if looks and call.labels is None:
            _refuse_unseen_block()
        return call
    if (mask := told.mask) is not None:
        guessed = max(call.logits_to_keep - 1, 0)  # as many columns behind the prompt may be
        if len(mask) != prompts or not columns - guessed <= mask.shape[1] <= columns:
            raise ValueError(
                f"foveate.instruction: mask: want ({prompts}, {columns}), a row for each prompt, as long as "
                f"its input_ids; got {described(mask)}"
            )
    if told.ids is not None:
        calls.check_words(base, told.ids, "foveate.instruction: ids", prompts)
    mask, ids = (
        None if one is None else one.repeat_interleave(copies, dim=0) for one in (mask, told.ids)
    )
    return replace(call, instruction_mask=mask, instruction_ids=ids)


def _refuse_unseen_block() -> None:
    here = threading.get_ident()
    unseen = any(thread != here for thread in tuple(_open.values()))
    if unseen or threading.current_thread() in _born:
        raise RuntimeError(
            "a compressor reads this prompt, and another thread has a block of foveate.instruction open, or "
            "had when this one began, that this one does not see: open the block in the thread that calls "
            "the model, or start that thread with contextvars.copy_context().run; where there is nothing to "
            "tell, call it in an empty block, with foveate.instruction():"
        )


def _columns(
    call: Call, real: Tensor, text: Tensor, needs: frozenset[str], training: bool
) -> Columns:
    """Which columns hold the instruction, and which come before any answer; neither holds one.

    text (B, S) real columns without placeholders. Raises ValueError where nothing tells instruction and
    answer apart though a compressor looks.
    """
    if call.instruction_mask is not None:
        mask = call.instruction_mask.to(text.device).bool()
        mask = torch.nn.functional.pad(mask, (0, text.shape[1] - mask.shape[1]), value=False)
        before = mask.flip(1).cumsum(1).flip(1) > 0  # up to its last column
        return Columns(real, text & mask, real & before)
    if call.labels is not None:
        answer = text & (call.labels.to(text.device) != calls.IGNORED)
        return Columns(real, text & ~answer, real & (answer.cumsum(1) == 0))
    if needs & _reads(call):
        _refuse_guessing(call, training)
    return Columns(real, text, real)


def _reads(call: Call) -> frozenset[str]:
    """The fields that are read from the prompt itself."""
    return READ if call.instruction_ids is None else PROMPT_ROWS


def _refuse_guessing(call: Call, training: bool) -> None:
    if training and torch.is_grad_enabled():
        raise ValueError(
            "training without labels: nothing tells the instruction from the answer, which a compressor "
            "that reads the prompt must not see; pass labels or instruction_mask"
        )
    if call.logits_to_keep > 1:
        raise ValueError(
            f"logits_to_keep={call.logits_to_keep}: the prompt may end in guessed tokens, as in assisted "
            "decoding, that a compressor would read; decode without an assistant, or say what is prompt: "
            "with foveate.instruction(mask), or as instruction_mask of the call"
        )


def _words(
    base: nn.Module, call: Call, instruction: Tensor, ids: Tensor, row: Tensor
) -> dict[str, Tensor]:
    """The instruction's embeddings for each image, in order, without a column between them. row (I,)."""
    if call.instruction_ids is not None:
        ids = call.instruction_ids.to(ids)
        instruction = (ids != calls.IGNORED) & ~traits.is_visual(base, ids)
    cut = Cut.keeping(instruction[row], pad_right=True)
    read = cut.take(ids[row], fill=traits.padding_id(base))
    words = base.get_input_embeddings()(read).masked_fill(~cut.valid[..., None], 0)
    return {"text": words, "text_ids": read, "text_mask": cut.valid}


def required(parts: Sequence[Compressor]) -> frozenset[str]:
    """What compressors look at and cannot do without; of all fields, only words are ever optional."""
    return frozenset().union(*(part.needs - (part.optional & WORDS) for part in parts))


def _refuse_covered(call: Call, columns: Columns, prompt: Tensor, wanted: frozenset[str]) -> None:
    """Raise ValueError where labels begin with the prompt itself, and nothing else tells what is asked."""
    reads = wanted & _reads(call)
    if not reads or call.labels is None or call.instruction_mask is not None:
        return
    labelled = columns.real & (call.labels.to(columns.real.device) != calls.IGNORED)
    covered = (labelled.any(1) & ~(columns.asking & columns.instruction).any(1))[prompt]
    if bool(covered.any()):
        raise ValueError(
            f"the labels of prompt {int(prompt[covered][0])} of the batch cover its question, which a "
            f"compressor reads for {sorted(reads)[0]}: they must be -100 up to the answer, or pass "
            "instruction_mask; in TRL, train on prompt and completion (completion_only_loss) or with "
            "assistant_only_loss"
        )


def _refuse_unseen(
    columns: Columns, words: dict[str, Tensor], seen: Rows, row: Tensor, wanted: frozenset[str]
) -> None:
    """Raise ValueError where there is nothing to read for a field that no compressor can do without."""
    if wanted & WORDS and not bool((told := words["text_mask"].any(1)).all()):
        raise ValueError(
            f"no instruction in prompt {int(seen.prompt[~told][0])} of the batch, which a compressor reads: "
            "labels must be -100 where the instruction stands, or pass instruction_mask or instruction_ids"
        )
    ends, column = seen.column.amax(1), torch.arange(columns.real.shape[1], device=row.device)
    for name in sorted(wanted & PROMPT_ROWS):
        rows = columns.asking if name in OF_LAST else columns.asking & columns.instruction
        last = (column * rows).amax(1)[row]
        if bool((last < ends).any()):
            image = int((last < ends).nonzero()[0])
            raise ValueError(
                f"image {image} of the batch ends at column {int(ends[image])}, behind the last one that may "
                f"be read for {name} ({int(last[image])}): give each row one question behind its images, "
                "before any answer"
            )
