"""A method with its budget, or with a ladder of them, in a file: it is named where a method is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.keeping.provenance import dumps, record, sealed, unsealed, write
from foveate.registry import written

if TYPE_CHECKING:
    from foveate.core.spec import Spec

FORMAT = 1
SUFFIX = ".json"  # no method's name ends so
LADDER = "ladder"


@dataclass(frozen=True)
class Setting:
    """How a model is compressed, in words.

    method       as people write it, with its budget: divprune(keep=36)
    model        the name of the model that it was chosen for, and `fingerprint` its weights
    switches     what else `foveate.compress` is told
    """

    method: str
    model: str
    fingerprint: str
    switches: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path, **found: Any) -> Path:
        """Into a file, with what else was found."""
        document = {"format": FORMAT, "setting": asdict(self), **found, "circumstances": record()}
        return write(path, dumps(sealed(document)))

    @classmethod
    def of(cls, document: Mapping[str, Any], path: str | Path) -> Setting:
        """Of what was sealed in a file. Raises ValueError for anything else."""
        if document.get("format") != FORMAT or "setting" not in document:
            raise ValueError(
                f"{path}: no setting or ladder as `foveate tune` and `calibrate` write them, or changed "
                "since: make it anew"
            )
        return cls(**document["setting"])

    @property
    def spec(self) -> Spec:
        """The method. Raises ValueError for one that there is not, and for a class by its path."""
        from foveate.hosts.switches import Switches  # here: it takes torch to read

        if ":" in self.method:
            raise ValueError(f"{self.method!r}: a file may name methods, and no code")
        switches = Switches.of(self.switches).told
        return replace(
            written.spec(self.method), switches=switches, chosen=(self.model, self.fingerprint)
        )


def of_ladder(told: Mapping[str, Any]) -> Spec:
    """The method of a ladder on its lowest rung, with the ladder among its switches.

    told: as `foveate.ladder.Ladder` has it.
    """
    beside = {"method", "saved", "switches"}
    ladder = {name: value for name, value in told.items() if name not in beside}
    return replace(
        written.spec(told["method"]),
        keep=told["keeps"][0],
        switches={**told["switches"], LADDER: {**ladder, "keeps": [*told["keeps"]]}},
        saved=told["saved"],
    )


def named(text: str, beside: Iterable[str] = ()) -> Spec | None:
    """The method in the file that a user of this machine names; None where the text names no file.

    Never for what somebody else sends. beside: what is given with it, as it was typed; a file says all.
    Raises ValueError as `Setting.read` does, and where something is given beside it.
    """
    if not text.endswith(SUFFIX):
        return None
    try:
        document = _document(text)
        found = (
            of_ladder(document[LADDER]) if LADDER in document else Setting.of(document, text).spec
        )
    except ValueError as error:
        raise ValueError(f"method {error}") from error
    if given := ", ".join(beside):
        raise ValueError(
            f"{given} beside {text}, which says {found.whole}: leave it out, or name the method itself"
        )
    return found


def _document(path: str | Path) -> dict[str, Any]:
    """What was sealed in a file; nothing where it is no such file."""
    try:
        return unsealed(Path(path).expanduser().read_bytes()) or {}
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror or error}; `foveate tune` writes such a file, and a method has no "
            f"{SUFFIX} in its name"
        ) from error
