"""How a host treats every method alike: what `compress` is told beside the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foveate.core.ops import choice

POSITIONS = ("original", "renumbered")
NEWLINES = ("rows", "none")
DROPPED = ("gone", "merged")
ATTENTION = ("plain", "proportional")
# What there is of each, what holds where nobody says first.
ALLOWED = {
    "positions": POSITIONS,
    "newlines": NEWLINES,
    "dropped": DROPPED,
    "attention": ATTENTION,
}


@dataclass(frozen=True)
class Switches:
    """What `foveate.compress` says of them. Raises ValueError for words that none of them has.

    positions  of tokens that are left: their own, or counted anew
    newlines   whether one stays for every row of tiles with a token
    dropped    whether dropped tokens are gone, or joined the kept ones most like them
    attention  whether it looks at a token once, or as often as the token carries patches
    """

    positions: str = "original"
    newlines: str = "rows"
    dropped: str = "gone"
    attention: str = "plain"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            choice(name, value, ALLOWED[name])

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Switches:
        """Those that a description holds, the others as usual."""
        return cls(**{name: node[name] for name in ALLOWED if name in node})

    @property
    def merges(self) -> bool:
        """Whether dropped tokens join kept ones."""
        return self.dropped == "merged"

    @property
    def proportional(self) -> bool:
        """Whether attention counts what a token carries."""
        return self.attention == "proportional"

    @property
    def told(self) -> dict[str, str]:
        """The positions, and whatever is not as usual."""
        usual = {name: allowed[0] for name, allowed in ALLOWED.items() if name != "positions"}
        return {name: v for name, v in asdict(self).items() if usual.get(name) != v}
