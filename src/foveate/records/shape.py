"""What an index knows of a record as it stands in the file; it may be broken."""

from __future__ import annotations

from typing import Any

from foveate.chat import MARK
from foveate.records.faults import PICTURES

# Keys of a record, and of a turn: those that are read, and those that LLaVA's files have beside them.
KNOWN = frozenset({"id", *PICTURES, "conversations", "system", "model"})
SAID = frozenset({"from", "value"})
Shape = tuple[bool, int, int]  # whether it names an image, how many questions, which has the first


def shape(value: Any) -> Shape:
    """Whether a record as it stands in the file names images, and where; it may be broken."""
    if not isinstance(value, dict):
        return False, 1, 0
    turns = value.get("conversations")
    turns = turns if isinstance(turns, list) else []
    first = turns[0].get("from") if turns and isinstance(turns[0], dict) else None
    turns = turns[1:] if first == "system" else turns
    marked = (n for n, t in enumerate(turns) if isinstance(t, dict) and MARK in str(t.get("value")))
    has = any(value.get(key) for key in PICTURES)
    return has, max(1, len(turns) // 2), next(marked, 0) // 2


def strange(value: Any) -> set[str]:
    """The keys of a record that nothing reads."""
    if not isinstance(value, dict):
        return set()
    found, turns = set(value.keys() - KNOWN), value.get("conversations")
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and not turn.keys() <= SAID:
            found.update(f"conversations.{key}" for key in turn.keys() - SAID)
    return found
