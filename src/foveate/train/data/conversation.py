"""A conversation as the text a model reads, and where in it the questions and the answers stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import ProcessorMixin

from foveate.train.data.records import MARK, Record, Turn

Span = tuple[int, int]  # first character, and the one behind the last
HOLE = "\ue000"  # stands for a text where only the template's own words are wanted


@dataclass(frozen=True)
class Said:
    """One conversation, one mark of the processor's for each image. It ends with the last answer."""

    text: str
    questions: tuple[Span, ...]
    answers: tuple[Span, ...]  # each with the token that ends it


class Plain:
    """LLaVA's pre-training: the images, the caption, the end. Liu et al. 2023, arXiv:2304.08485.

    What the human says is left out. Differs from the paper: the caption ends with the tokenizer's end
    token instead of a line break, so that the model learns to stop.
    """

    def __init__(self, processor: ProcessorMixin):
        self.mark, self.end = image_mark(processor), end_token(processor)

    def __call__(self, record: Record) -> Said:
        """The record's images and caption. Raises ValueError for more than one answer."""
        answers = [turn.text for turn in record.turns if turn.role == "assistant"]
        if len(answers) != 1:
            raise ValueError(
                f"{record.where}: template='plain' wants one caption, not {len(answers)}"
            )
        images = self.mark * len(record.images)
        text = images + answers[0].strip() + self.end
        return Said(text, (), ((len(images), len(text)),))


class Chat:
    """The processor's own chat template, or LLaVA's "USER: … ASSISTANT: …" where it has none.

    An answer begins where the prompt for it ends and includes what ends a turn, without the white space
    in front of the next. Where a template ends answers with no special token, as LLaVA-1.5's, the
    tokenizer's end token is put behind each, as LLaVA was trained; otherwise nothing would say stop.
    """

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor
        ask, answer = spoken("user", HOLE), spoken("assistant", HOLE)
        prompt = self.render([ask], answered=False).partition(HOLE)[2]
        frame = self.render([ask, answer]).split(HOLE)
        if len(frame) != 3:
            raise ValueError("the chat template leaves out or repeats what is said")
        _, head, end = frame
        # What the template writes behind the prompt and before the answer, the model has to write.
        self.lead = head.removeprefix(prompt) if head.startswith(prompt) else ""
        self.own_end = "" if holds_special(processor, end) else end_token(processor)
        self.end = "" if self.own_end else end.rstrip()

    def __call__(self, record: Record) -> Said:
        """The conversation as the template writes it. Raises ValueError where that cannot be followed."""
        turns = [spoken(turn.role, self.ended(turn)) for turn in record.turns]
        text = self.render(turns)
        frame = self.render([hollow(turn) for turn in turns]).split(HOLE)
        said = [
            (turn["role"], part["text"])
            for turn in turns
            for part in turn["content"]
            if "text" in part
        ]
        spans = places(text, frame, [words for _, words in said], record.where)
        roles = [role for role, _ in said]
        questions = [s for role, s in zip(roles, spans, strict=True) if role == "user"]
        answers = [
            self.whole(text, s, record.where)
            for role, s in zip(roles, spans, strict=True)
            if role == "assistant"
        ]
        # White space of the template behind the last answer teaches nothing.
        return Said(text[: answers[-1][1]], tuple(questions), tuple(answers))

    def ended(self, turn: Turn) -> str:
        """What one side says, and the end token where the template brings none."""
        return turn.text.strip() + (self.own_end if turn.role == "assistant" else "")

    def whole(self, text: str, answer: Span, where: str) -> Span:
        """An answer with what leads to it and what ends it."""
        first, last = answer
        if not text.startswith(self.end, last) or not text.endswith(self.lead, 0, first):
            raise ValueError(
                f"{where}: the chat template does not end each answer with {self.end!r}, as it ends the last"
            )
        return first - len(self.lead), last + len(self.end)

    def render(self, turns: Sequence[dict[str, Any]], answered: bool = True) -> str:
        """The turns as text; with answered=False up to where the next answer begins."""
        if getattr(self.processor, "chat_template", None) is not None:
            return self.processor.apply_chat_template(turns, add_generation_prompt=not answered)
        mark = image_mark(self.processor)
        text = ""
        for turn in turns:
            images = sum(part["type"] == "image" for part in turn["content"])
            words = images * f"{mark}\n" + "".join(p.get("text", "") for p in turn["content"])
            text += f"USER: {words} " if turn["role"] == "user" else f"ASSISTANT: {words}"
        return text if answered else text + "ASSISTANT:"


def spoken(role: str, text: str) -> dict[str, Any]:
    """A turn as chat templates take it; between images its text stays as it is."""
    pieces = text.split(MARK)
    first = next((n for n, piece in enumerate(pieces) if piece.strip()), len(pieces))
    last = max((n for n, piece in enumerate(pieces) if piece.strip()), default=-1)
    content: list[dict[str, str]] = []
    for n, piece in enumerate(pieces):
        content += [{"type": "image"}] if n else []
        words = piece.lstrip() if n == first else piece
        words = words.rstrip() if n == last else words
        content += [{"type": "text", "text": words}] if words.strip() else []
    return {"role": role, "content": content}


def hollow(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn with a hole for each of its texts."""
    content = [{**part, "text": HOLE} if "text" in part else part for part in turn["content"]]
    return {**turn, "content": content}


def places(text: str, frame: list[str], pieces: list[str], where: str) -> list[Span]:
    """Where each piece stands in frame[0] + piece + frame[1] + …; a template may have trimmed it."""
    if len(frame) != len(pieces) + 1 or not text.startswith(frame[0]):
        raise ValueError(f"{where}: the chat template leaves out or repeats what is said")
    spans, at = [], len(frame[0])
    for piece, behind in zip(pieces, frame[1:], strict=True):
        forms = (piece, piece.strip(), piece.lstrip(), piece.rstrip())
        found = next((form for form in forms if text.startswith(form + behind, at)), None)
        if found is None:
            raise ValueError(f"{where}: the chat template rewrites {piece[:40]!r}")
        spans.append((at, at + len(found)))
        at += len(found) + len(behind)
    return spans


def image_mark(processor: ProcessorMixin) -> str:
    """What stands for an image in a processor's text."""
    return getattr(processor, "image_token", MARK)


def end_token(processor: ProcessorMixin) -> str:
    """The token that ends a text. Raises ValueError for a tokenizer without one."""
    end = processor.tokenizer.eos_token
    if end is None:
        raise ValueError("the tokenizer has no eos_token, so no answer could end")
    return end


def holds_special(processor: ProcessorMixin, text: str) -> bool:
    """Whether a text holds one of the tokenizer's special tokens."""
    tokenizer = processor.tokenizer
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = tokenizer(text, add_special_tokens=False).input_ids
    return not special.isdisjoint({*found}) or not {*tokenizer.all_special_ids}.isdisjoint(found)
