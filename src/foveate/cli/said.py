"""What people typed, as it is shown to them again: on one line, short, and with nothing unseen in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

VALUE, LINE = 200, 2_000  # letters of one value, and of a whole line
ENDS = 60  # letters that are shown of the end of what is cut
RUN = re.compile(rf"\S{{{VALUE + 1},}}")


def line(text: str, typed: Iterable[str] = ()) -> str:
    """A text on one line.

    typed: the words of the command line; where the text quotes one, or what stands behind its =, it is cut
    to VALUE letters. So is whatever has no blanks, and the whole to LINE.
    """
    for word in sorted({one for words in typed for one in quoted(words)}, key=len, reverse=True):
        if word in text:
            text = text.replace(word, cut(visible(word)))
    text = RUN.sub(lambda run: cut(run[0]), visible(" ".join(text.split())))
    return cut(text, LINE)


def quoted(word: str) -> set[str]:
    """How an error may quote a word, if that is long or holds what cannot be seen; as repr writes it, too."""
    parts = {word, word.strip(), word.partition("=")[2].strip()}
    parts |= {part.strip() for part in word.split(",")} if len(word) > VALUE else set()
    parts |= {repr(part)[1:-1] for part in parts}
    return {part for part in parts if len(part) > VALUE or (part.strip() and visible(part) != part)}


def visible(text: str) -> str:
    """The text with control characters, bytes that are no UTF-8, and the like written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def escaped(letter: str) -> str:
    """One letter as an escape; a byte that was no UTF-8 as that byte."""
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", "backslashreplace").decode()


def cut(text: str, most: int = VALUE) -> str:
    """The text, its middle left out if it is longer than so many letters."""
    if len(text) <= most:
        return text
    return f"{text[: most - ENDS]}… ({len(text):,} letters) …{text[-ENDS:]}"


def utf8(text: str) -> bool:
    """Whether all of a text can be written as UTF-8: a command line may hold other bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
