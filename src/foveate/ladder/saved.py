"""A calibrated ladder as a file: what to ask with, when to climb, and what was shown of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foveate.core.compressor import Compressor
from foveate.evaluate.prompts import Ask
from foveate.evaluate.results import fingerprint
from foveate.keeping.provenance import content, dumps, record, sealed, unsealed, write
from foveate.ladder.climb import Climbed, climb
from foveate.registry import written

FORMAT = 1
ALL = 1.0  # tokens, as a share


@dataclass(frozen=True)
class Ladder:
    """A ladder of budgets, and the threshold that was calibrated for it.

    method     as people write it; None is the compressor that the model was saved with
    keeps      budgets, fewest tokens first; 1.0 is all tokens, without a method
    threshold  nats of entropy of the first token, above which a question climbs; 0: all do
    risk       at most this share of all answers differs from those with all tokens,
    delta      but with this probability over the questions it was calibrated on
    n          questions it was calibrated on
    task       their name, and `examples` their digest
    model      its name, and `fingerprint` its weights: what is shown is shown of these
    switches   what else `foveate.compress` is told
    """

    method: str | None
    keeps: tuple[int | float, ...]
    threshold: float
    risk: float
    delta: float
    n: int
    task: str
    examples: str
    model: str
    fingerprint: str
    switches: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path, found: Mapping[str, Any]) -> Path:
        """Into a file, with what came of the questions beside it."""
        document = {"format": FORMAT, "ladder": asdict(self), **found, "circumstances": record()}
        return write(path, dumps(sealed(document)))

    @classmethod
    def read(cls, path: Path) -> Ladder:
        """From a file. Raises ValueError where it holds none, or not as it was written."""
        text = content(path)
        document = None if text is None else unsealed(text)
        if document is None or document.get("format") != FORMAT:
            raise ValueError(f"{path}: no ladder as `foveate calibrate` writes one")
        told = document["ladder"]
        return cls(**{**told, "keeps": tuple(told["keeps"])})

    def rungs(self, model: Any, saved: Compressor | None = None) -> list[Compressor | None]:
        """Its compressors, built for a model; saved: the one the model was saved with."""
        if self.method is None and (saved is None or not saved.elastic):
            raise ValueError("the ladder is of a model that was saved with a method for any budget")

        def at(keep: int | float) -> Compressor:
            named = self.method is not None
            return written.spec(self.method).build(keep, model) if named else saved.but(keep=keep)

        return [
            None if keep == ALL and isinstance(keep, float) else at(keep) for keep in self.keeps
        ]

    def answers(
        self,
        model: Any,
        processor: Any,
        asks: Sequence[Ask],
        max_new_tokens: int,
        saved: Compressor | None = None,
    ) -> list[Climbed]:
        """A batch of questions to the bare model, each from as few tokens as leave no doubt.

        Raises ValueError for another model than the ladder was calibrated for: nothing is shown of that.
        """
        if fingerprint(model) != self.fingerprint:
            raise ValueError(
                f"the ladder was calibrated for the bare {self.model}, and this model has other weights: "
                "foveate calibrate makes one for it"
            )
        how = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
        rungs = self.rungs(model, saved)
        return climb(model, processor, asks, rungs, self.threshold, how, self.switches)
