"""A conversation as the text a model reads, and where in it the questions and the answers stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foveate.chat.said import MARK, Conversation, Said, Span, Turn

Told = str | Sequence[Turn]  # a question, or the turns of a conversation that ends with one
HOLE = "\ue000"  # stands for a text where only the template's own words are wanted


class Chat:
    """The processor's own chat template, or LLaVA's "USER: … ASSISTANT: …" where it has none.

    An answer begins where the prompt for it ends and includes what ends a turn, without the white space
    in front of the next. Where a template ends answers with no special token, as LLaVA-1.5's, the
    tokenizer's end token is put behind each, as LLaVA was trained; otherwise nothing would say stop.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        ask, answer = spoken("user", HOLE), spoken("assistant", HOLE)
        prompt = render(processor, [ask], answered=False).partition(HOLE)[2]
        frame = render(processor, [ask, answer]).split(HOLE)
        if len(frame) != 3:
            raise ValueError("the chat template leaves out or repeats what is said")
        _, self.head, end = frame
        head = self.head
        # What the template writes behind the prompt and before the answer, the model has to write.
        self.lead = head.removeprefix(prompt) if head.startswith(prompt) else ""
        self.own_end = "" if holds_special(processor, end) else end_token(processor)
        self.end = "" if self.own_end else end.rstrip()

    def __call__(self, conversation: Conversation) -> Said:
        """The conversation as the template writes it. Raises ValueError where that cannot be followed."""
        where = conversation.where
        turns = [spoken(turn.role, self.ended(turn)) for turn in conversation.turns]
        text = render(self.processor, turns)
        spans = found(self.processor, turns, text, where)
        if spans[0][0] == "system":
            self.want_system(text[: spans[0][1][0]], where)
        questions = [span for role, span in spans if role == "user"]
        answers = [self.whole(text, span, where) for role, span in spans if role == "assistant"]
        # White space of the template behind the last answer teaches nothing.
        return Said(text[: answers[-1][1]], tuple(questions), tuple(answers))

    def want_system(self, before: str, where: str) -> None:
        """Raise ValueError if the template writes these words, an answer's, in front of a system turn."""
        words = before.removeprefix(self.processor.tokenizer.bos_token or "").strip()
        if words and self.head.rstrip().endswith(words):
            raise ValueError(
                f"{where}: the chat template knows no system turn and writes it as an answer: leave it out"
            )

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


def prompt(processor: Any, question: Told, kinds: Sequence[str] = ("image",)) -> str:
    """The text of a prompt that asks one question behind its images, up to where the answer begins.

    A question with marks has its images there; one that is the last of several turns, in those. kinds: of
    each, whether it is an "image" or a "video".
    """
    return render(processor, told(processor, question, kinds), answered=False)


def asked(processor: Any, question: Told, kinds: Sequence[str] = ("image",)) -> Said:
    """The same prompt, and where the user speaks. Raises ValueError where the template rewrites it."""
    turns = told(processor, question, kinds)
    text = render(processor, turns, answered=False)
    spans = found(processor, turns, text, "the question", answered=False)
    return Said(text, tuple(trimmed(text, span) for role, span in spans if role == "user"), ())


def told(processor: Any, question: Told, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """The turns of a prompt as chat templates take them."""
    if isinstance(question, str):
        turns = [spoken("user", question) if MARK in question else asking(question, len(kinds))]
    else:
        chat = Chat(processor)
        turns = [spoken(turn.role, chat.ended(turn)) for turn in question]
    pictures = [part for turn in turns for part in turn["content"] if part["type"] == "image"]
    for part, kind in zip(pictures, kinds, strict=False):
        part["type"] = kind
    return turns


def trimmed(text: str, span: Span) -> Span:
    """The span without the white space at its ends, which conversations are taught without."""
    words = text[slice(*span)]
    return span[0] + len(words) - len(words.lstrip()), span[1] - len(words) + len(words.rstrip())


def asking(question: str, images: int) -> dict[str, Any]:
    """A user's turn: images, and a question behind them."""
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
    return {"role": "user", "content": content}


def render(processor: Any, turns: Sequence[dict[str, Any]], answered: bool = True) -> str:
    """The turns as text; with answered=False up to where the next answer begins."""
    if getattr(processor, "chat_template", None) is not None:
        return processor.apply_chat_template(turns, add_generation_prompt=not answered)
    marks = {"image": image_mark(processor), "video": getattr(processor, "video_token", "<video>")}
    text = ""
    for turn in turns:
        words = "".join(f"{marks[p['type']]}\n" for p in turn["content"] if p["type"] in marks)
        words += "".join(p.get("text", "") for p in turn["content"])
        text += {"user": f"USER: {words} ", "system": f"{words} "}.get(
            turn["role"], f"ASSISTANT: {words}"
        )
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


def found(
    processor: Any, turns: Sequence[dict[str, Any]], text: str, where: str, answered: bool = True
) -> list[tuple[str, Span]]:
    """Who says what is said, and where in the text that the template made of these turns."""
    frame = render(processor, [hollow(turn) for turn in turns], answered).split(HOLE)
    said = [(t["role"], part["text"]) for t in turns for part in t["content"] if "text" in part]
    spans = places(text, frame, [words for _, words in said], where)
    return [(role, span) for (role, _), span in zip(said, spans, strict=True)]


def places(text: str, frame: list[str], pieces: list[str], where: str) -> list[Span]:
    """Where each piece stands in frame[0] + piece + frame[1] + …; a template may have trimmed it."""
    if len(frame) != len(pieces) + 1 or not text.startswith(frame[0]):
        raise ValueError(f"{where}: the chat template leaves out or repeats what is said")
    spans, at = [], len(frame[0])
    for piece, behind in zip(pieces, frame[1:], strict=True):
        forms = (piece, piece.strip(), piece.lstrip(), piece.rstrip())
        form = next((form for form in forms if text.startswith(form + behind, at)), None)
        if form is None:
            raise ValueError(f"{where}: the chat template rewrites {piece[:40]!r}")
        spans.append((at, at + len(form)))
        at += len(form) + len(behind)
    return spans


def image_mark(processor: Any) -> str:
    """What stands for an image in a processor's text."""
    return getattr(processor, "image_token", MARK)


def end_token(processor: Any) -> str:
    """The token that ends a text. Raises ValueError for a tokenizer without one."""
    end = processor.tokenizer.eos_token
    if end is None:
        raise ValueError("the tokenizer has no eos_token, so no answer could end")
    return end


def holds_special(processor: Any, text: str) -> bool:
    """Whether a text holds one of the tokenizer's special tokens."""
    tokenizer = processor.tokenizer
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return not special.isdisjoint({*ids}) or not {*tokenizer.all_special_ids}.isdisjoint(ids)
