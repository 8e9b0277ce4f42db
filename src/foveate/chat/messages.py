"""Messages as other programs write them, as what a model is shown and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foveate.chat import template
from foveate.chat.pictures import VIDEOS, is_video
from foveate.chat.said import MARK, Turn
from foveate.chat.template import Chat, Told, prompt

SEEN = ("image", "video")


def ask(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Any], Told]:
    """The pictures of messages in order, and what is said: `{"role", "content"}` each.

    Pictures and videos stand where they are among the texts, or where a text with as many marks has these.
    Raises ValueError for sounds, and for videos that are no files.
    """
    turns: list[Turn] = []
    images: list[Any] = []
    for message in messages:
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        if other := {part["type"] for part in parts} - {"text", *SEEN}:
            raise ValueError(
                f"a message with {min(other)}: foveate answers about pictures, videos and text"
            )
        own = [part["url"] for part in parts if part["type"] in SEEN]
        watched = [part["url"] for part in parts if part["type"] == "video"]
        if strange := [one for one in watched if not is_video(one)]:
            raise ValueError(f"a video {strange[0]!r}: want a file of {', '.join(VIDEOS)}")
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
    said = template.told(processor, turns, ())
    (_, (start, _)), *_ = template.found(processor, said, text, where, answered=False)
    Chat(processor).want_system(text[:start], where)
