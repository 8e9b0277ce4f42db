"""What is wrong with a record as it stands in a file, and how it is named; pictures aside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from foveate.chat import MARK

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
HALF = re.compile("[\ud800-\udfff]")  # half a character: JSON may hold it, no text may
PICTURES = ("image", "images", "video", "videos")  # one of them names a record's pictures
INSTEAD = (("from", "role"), ("value", "content"))  # keys of a turn, and those of other files
BRIEF = 80  # characters shown of what somebody wrote
SHOWN = 60  # and of an id
Fault = tuple[str, str]  # its kind, and what it is in this record


def names(value: dict[str, Any]) -> list[str]:
    """The paths of a record's pictures as the file has them, a video being one."""
    found = next((value[key] for key in PICTURES if value.get(key)), [])
    return [found] if isinstance(found, str) else found


def faults(value: Any) -> list[Fault]:
    """Everything that is wrong with the JSON value of a record, files aside."""
    if not isinstance(value, dict):
        return [("no object", f"want an object, found {type(value).__name__}")]
    found = pictures(value)
    images = None if found else len(names(value))
    turns = value.get("conversations")
    if not isinstance(turns, list) or not turns:
        what = "is empty" if turns == [] else "is missing" if turns is None else "is no list"
        if turns is None and "messages" in value:
            what += '; "messages" is not read, want turns of "from" and "value"'
        return [*found, ("conversations", f'"conversations" {what}')]
    if wrong := [fault for n, turn in enumerate(turns, 1) for fault in misshapen(n, turn)]:
        return found + wrong
    return found + system(value, turns) + order(turns) + marks(turns, images)


def pictures(value: dict[str, Any]) -> list[Fault]:
    """What is wrong with the paths of a record's pictures."""
    given = [(key, value[key]) for key in PICTURES if value.get(key)]
    listed = [[paths] if isinstance(paths, str) else paths for _, paths in given]
    for (key, shown), paths in zip(given, listed, strict=True):
        if not isinstance(paths, list) or not all(isinstance(p, str) and p for p in paths):
            what = f'"{key}" is {brief(shown)}; want a path or a list of paths'
            return [("image paths", what)]
        if bad := [path for path in paths if HALF.search(path) or "\0" in path]:
            return [("image paths", f"{brief(bad[0])} can be no file's path")]
    if any(paths != listed[0] for paths in listed):
        both = " and ".join(f'"{key}"' for key, _ in given)
        what = f'{both} name different files; want one of them, or all in order under "images"'
        return [("image paths", what)]
    return []


def misshapen(n: int, turn: Any) -> list[Fault]:
    """What is wrong with the n-th turn by itself."""
    if not isinstance(turn, dict):
        return [("turns", f"turn {n} is no object")]
    found = [
        ("keys", f'turn {n} has no "{key}"' + (f'; "{other}" is not read' if other in turn else ""))
        for key, other in INSTEAD
        if key not in turn
    ]
    role, text = turn.get("from", "gpt"), turn.get("value", "?")
    if not isinstance(role, str) or role not in ROLES:
        what = f"turn {n} is from {brief(role)}; want human or gpt, or system in front of them"
        found.append(("roles", what))
    if not isinstance(text, str):
        found.append(("text", f"the value of turn {n} is no text"))
    elif not text.strip() and role != "system":
        what = "answer" if ROLES.get(str(role)) == "assistant" else "question"
        found.append((f"empty {what}", f"turn {n} is an empty {what}"))
    elif not text.isascii():
        found += halved(f"turn {n}", text)
    return found


def system(value: dict[str, Any], turns: list[dict[str, str]]) -> list[Fault]:
    """What is wrong with the system prompt beside the turns, under "system"."""
    text = value.get("system")
    if text is None:
        return []
    if not isinstance(text, str):
        return [("system", f'"system" is {brief(text)}; want text')]
    told = turns[0]["value"].strip() if turns[0]["from"] == "system" else ""
    if told and text.strip() not in ("", told):
        return [("system", '"system" and turn 1 say different things; want one of them')]
    if MARK in text:
        return [("image in a system prompt", f'"system" has an {MARK} mark')]
    return halved('"system"', text)


def order(turns: list[dict[str, str]]) -> list[Fault]:
    """Human and gpt in turn, from the human's first word to an answer at the end; system only in front."""
    roles = [ROLES[turn["from"]] for turn in turns]
    begin = int(roles[0] == "system")
    if not (talk := roles[begin:]):
        return [("roles", "turn 1 is from system and no other follows; want human")]
    found = []
    if talk[0] == "assistant":
        found.append(("roles", f"the first turn is from {turns[begin]['from']}; want human"))
    for n, (before, role) in enumerate(pairwise(talk), begin + 2):
        if before == role:
            found.append(("roles", f"turns {n - 1} and {n} are both from {turns[n - 1]['from']}"))
    found += [
        ("roles", f"turn {n} is from system; want that in front of all others")
        for n, role in enumerate(talk, begin + 1)
        if role == "system"
    ]
    if talk[-1] == "user":
        found.append(("roles", f"the last turn is from {turns[-1]['from']} and has no answer"))
    return found


def marks(turns: list[dict[str, str]], images: int | None) -> list[Fault]:
    """One mark for each image, in what the human says. images: None if what names them is wrong."""
    counts = [turn["value"].count(MARK) for turn in turns]
    found = []
    if images not in (None, sum(counts)):
        found.append(("marks and images", f"{sum(counts)} {MARK} marks and {images} images"))
    for n, (turn, count) in enumerate(zip(turns, counts, strict=True), 1):
        if count and (role := ROLES[turn["from"]]) != "user":
            what = "an answer" if role == "assistant" else "a system prompt"
            found.append((f"image in {what}", f"turn {n} is {what} with an {MARK} mark"))
    return found


def halved(what: str, text: str) -> Sequence[Fault]:
    """A fault where a text holds half a character."""
    if (half := HALF.search(text)) is None:
        return []
    return [("half a character", f"{what} holds {half[0]!r}, half a character, which is no text")]


def brief(value: Any) -> str:
    """What somebody wrote, as far as it helps."""
    text = repr(value)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}…"


def place(file: str, record: int, line: int, name: Any = None) -> str:
    """Where a record stands, as all errors have it: its number from 1, its id if it has one, its line.

    Record 0 is what stands in front of the first.
    """
    if record == 0:
        return f"{file} (line {line})"
    if not isinstance(name, str | int | float) or isinstance(name, bool) or name == "":
        return f"{file}: record {record} (line {line})"
    text = str(name) if len(str(name)) <= SHOWN else f"{str(name)[:SHOWN]}…"
    if isinstance(name, str):
        text = f'"{text}"' if text.isprintable() else json.dumps(text)
    return f"{file}: record {record} ({text}, line {line})"


def why(error: Exception, begin: int = 0) -> str:
    """What is wrong with a text that is no JSON, which begins at this character of what was read."""
    if isinstance(error, json.JSONDecodeError):
        what = error.msg.removesuffix(" at")  # as in "Unterminated string starting at"
        return f"{what} at character {error.pos - begin + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"no UTF-8: {error.reason} at byte {error.start + 1}"
    return (
        "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
    )
