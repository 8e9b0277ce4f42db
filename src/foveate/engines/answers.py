"""What other programs ask, and how they want it answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foveate.chat import MARK, Chat, Turn, prompt, template
from foveate.evaluate.prompts import Ask

LONGEST = 1024  # tokens of an answer, where a task says nothing
OURS = ("until", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k")
ONE = ("num_return_sequences", "return_dict_in_generate")  # an answer is one text


def ask(messages: Sequence[Mapping[str, Any]]) -> Ask:
    """Messages of lmms-eval as what a model is asked.

    Pictures stand where they are among the texts, or where a text with as many marks has these. Raises
    ValueError for videos and sounds.
    """
    turns: list[Turn] = []
    images: list[Any] = []
    for message in messages:
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        if other := {part["type"] for part in parts} - {"text", "image"}:
            raise ValueError(
                f"a message with {min(other)}: foveate answers about pictures and text"
            )
        own = [part["url"] for part in parts if part["type"] == "image"]
        text = "".join(part.get("text", "") for part in parts)
        if text.count(MARK) != len(own):
            text = "".join(part.get("text", MARK) for part in parts)
        turns.append(Turn(message["role"], text))
        images += own
    return images, _question(turns, len(images)) or turns


def _question(turns: Sequence[Turn], images: int) -> str | None:
    """The words of one user behind all pictures, as `foveate eval` asks them; None of other turns."""
    [first, *others] = turns
    words = first.text.removeprefix(images * MARK)
    plain = first.role == "user" and not others and MARK not in words
    return words if plain else None


def check_system(processor: Any, turns: Sequence[Turn]) -> None:
    """Raise ValueError where the chat template writes a system turn as if the model had said it."""
    text, where = prompt(processor, turns), "the system prompt"
    said = template.told(processor, turns, 0)
    (_, (start, _)), *_ = template.found(processor, said, text, where, answered=False)
    Chat(processor).want_system(text[:start], where)


def settings(asked: Mapping[str, Any], known: Any) -> tuple[dict[str, Any], list[str]]:
    """What `generate` is told, and which of a task's generation_kwargs mean nothing to it.

    Sampled is where do_sample or else a temperature says so, and the temperature is above 0. known: the
    model's generation config.
    """
    heat = asked.get("temperature") or 0.0
    sampled = heat > 0 and asked.get("do_sample") is not False
    how: dict[str, Any] = {"do_sample": sampled, "temperature": None, "top_p": None, "top_k": None}
    if sampled:
        given = {name: asked.get(name) or None for name in ("top_p", "top_k")}
        how |= {"temperature": float(heat), **given}
    how |= {"max_new_tokens": asked.get("max_new_tokens", LONGEST), "num_beams": 1}
    rest = {name: value for name, value in asked.items() if name not in OURS}
    how |= {name: value for name, value in rest.items() if hasattr(known, name) and name not in ONE}
    return how, [name for name in rest if name not in how]


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """An answer up to the first of these words."""
    for stop in [until] if isinstance(until, str) else until or []:
        text = text.partition(stop)[0] if stop else text
    return text.strip()
