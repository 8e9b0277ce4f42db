"""A question about images as it stands in a file: what is wrong with it, and what it becomes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.chat import MARK, Turn
from foveate.records.conversations import turns
from foveate.records.faults import PICTURES, Fault, brief, faults, halved, names, pictures
from foveate.records.shape import shape

if TYPE_CHECKING:
    from PIL import Image

KEYS = ("id", *PICTURES, "question", "answer", "answers", "choices", "group")
BESIDE = frozenset({"conversations", "system", "model"})  # of LLaVA's files
LISTS = (*PICTURES, "answer", "answers", "choices")  # in whose cells a JSON list is one
LETTERS = 26  # choices have letters


@dataclass(frozen=True)
class Question:
    """One question about images.

    told     what a model is told: words, which may have marks where images stand, or turns that end with
             the question
    answers  those that count as right; none where nobody knows
    group    what it is counted with; None: with all alone
    key      its number in its file, from 1, and in a conversation that of the question
    """

    id: str
    images: tuple[Path | Image.Image, ...]
    question: str
    told: str | tuple[Turn, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    group: str | None
    key: str
    where: str
    kind: None = None

    @property
    def answer(self) -> str | None:
        """The first that counts as right."""
        return self.answers[0] if self.answers else None


def wrong(value: Any) -> list[Fault]:
    """Everything that is wrong with the value of a question, files aside."""
    if isinstance(value, Mapping) and "conversations" in value:
        return faults(value) or _unseen(value)
    if not isinstance(value, Mapping):
        return [("no object", f"want an object, found {type(value).__name__}")]
    found = pictures(value)
    images = None if found else len(names(value))
    if images == 0:
        what = 'names no image, under "image" or "images", and no video'
        found = [("no image", what)]
    return found + _question(value, images) + _answers(value) + _choices(value) + _group(value)


def _unseen(value: Mapping[str, Any]) -> list[Fault]:
    first = next(turn for turn in turns(value) if turn.role == "user")
    what = "the first question comes without an image"
    return [] if MARK in first.text else [("no image", what)]


def _question(value: Mapping[str, Any], images: int | None) -> list[Fault]:
    text = value.get("question")
    if text is None:
        near = difflib.get_close_matches("question", map(str, value), n=1)
        return [
            ("question", f'"question" is missing{f"; {near[0]!r} is not read" if near else ""}')
        ]
    if not isinstance(text, str):
        return [("question", f'"question" is {brief(text)}; want text')]
    if not text.replace(MARK, "").strip():
        return [("question", '"question" is empty')]
    marks = text.count(MARK)
    if marks and images is not None and marks != images:
        return [("marks and images", f"{marks} {MARK} marks and {images} images")]
    return halved('"question"', text)


def _answers(value: Mapping[str, Any]) -> list[Fault]:
    one, many = value.get("answer"), value.get("answers")
    if one is not None and many is not None:
        return [("answers", 'both "answer" and "answers"; want one of them')]
    if many is not None and (not isinstance(many, Sequence) or isinstance(many, str) or not many):
        return [("answers", f'"answers" is {brief(many)}; want a list of texts')]
    for answer in [one] if many is None else many:
        text = _text(answer)
        if answer is not None and (text is None or not text.strip()):
            hint = '; several go into "answers"' if isinstance(answer, list) else ""
            return [("answers", f"the answer {brief(answer)} is no text{hint}")]
        if text and (half := halved("an answer", text)):
            return [*half]
    return []


def _choices(value: Mapping[str, Any]) -> list[Fault]:
    found = value.get("choices")
    if found is None:
        return []
    sound = isinstance(found, Sequence) and not isinstance(found, str)
    texts = [_text(choice) for choice in found] if sound else []
    if not 2 <= len(texts) <= LETTERS or not all(text and text.strip() for text in texts):
        return [("choices", f'"choices" is {brief(found)}; want a list of 2 to {LETTERS} texts')]
    if len({text.strip() for text in texts}) < len(texts):
        return [("choices", f'"choices" has one twice: {brief(found)}')]
    return [half for text in texts for half in halved("a choice", text)]


def _group(value: Mapping[str, Any]) -> list[Fault]:
    found = value.get("group")
    if found is None or _text(found) is not None:
        return []
    return [("group", f'"group" is {brief(found)}; want text')]


def _text(value: Any) -> str | None:
    """Text, or a number as people write it; of an annotation, its answer. None for anything else."""
    if isinstance(value, Mapping):
        value = value.get("answer")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str | int | float) else None


def count(value: Any) -> int:
    """How many questions the value of a record asks; it may be broken."""
    return shape(value)[1] if isinstance(value, Mapping) and "conversations" in value else 1


def strange(value: Any) -> set[str]:
    """Its keys that nothing reads."""
    if not isinstance(value, Mapping):
        return set()
    return set(value) - set(KEYS) - (BESIDE if "conversations" in value else set())


def made(
    value: Mapping[str, Any], images: tuple[Any, ...], number: int, where: str, ask: int = 0
) -> Question:
    """The question of a sound value; of a conversation the one numbered `ask`, from 0, with its past."""
    key = str(number + 1)
    name = key if value.get("id") is None else str(value["id"])
    if "conversations" in value:
        said = turns(value)
        ends = [n for n, turn in enumerate(said) if turn.role == "assistant"]
        if len(ends) > 1:
            key, where = f"{key}.{ask + 1}", f"{where}, question {ask + 1}"
        past = said[: ends[ask]]
        images = images[: sum(turn.text.count(MARK) for turn in past)]
        words = past[-1].text.replace(MARK, "").strip()
        answers, choices, told = (said[ends[ask]].text,), (), past
    else:
        many = value.get("answers")
        some = [value.get("answer")] if many is None else many
        answers = tuple(text for text in map(_text, some) if text is not None)
        choices = tuple(str(_text(choice)).strip() for choice in value.get("choices") or ())
        words, told = value["question"].replace(MARK, "").strip(), value["question"]
    group = value.get("group")
    group = None if group is None else str(_text(group))
    return Question(name, images, words, told, answers, choices, group, key, where)


def cell(key: str, text: str) -> Any:
    """What a table's cell says: nothing, a JSON list where there may be one, else its text."""
    if not text.strip():
        return None
    if key in LISTS and text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return [text] if key == "answers" else text
