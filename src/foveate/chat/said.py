"""What is said in a conversation: its turns, and the one text they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image

MARK = "<image>"  # where an image stands in a turn
Span = tuple[int, int]  # first character, and the one behind the last


@dataclass(frozen=True)
class Turn:
    """What one side says: role "user" or "assistant", or "system" in front of them.

    The text holds a mark where an image stands.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Record:
    """One conversation about images, or about none.

    where  its place in the file, for errors
    past   so many answers, from the first, are read and not learnt
    """

    id: str
    images: tuple[Path | Image.Image, ...]
    turns: tuple[Turn, ...]
    where: str
    past: int = 0


class Conversation(Protocol):
    """Turns, and where they come from, for errors."""

    @property
    def turns(self) -> Sequence[Turn]:
        """User and assistant in turn, behind a system turn or none."""

    @property
    def where(self) -> str:
        """A file and a line, or what else finds it again."""


@dataclass(frozen=True)
class Said:
    """One conversation, one mark of the processor's for each image; without an answer it is a prompt."""

    text: str
    questions: tuple[Span, ...]
    answers: tuple[Span, ...]  # each with the token that ends it
    beside: str | None = None  # what the user says, where the text leaves it out
