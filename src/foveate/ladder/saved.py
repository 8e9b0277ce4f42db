"""A calibrated ladder as a file: what to ask with, when to climb, and what was shown of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foveate.core.compressor import Compressor
from foveate.evaluate.prompts import Ask
from foveate.hosts import attach, climbing
from foveate.hosts.whole import fingerprint
from foveate.keeping.provenance import content, dumps, record, sealed, unsealed, write
from foveate.ladder.climb import Climbed, climb
from foveate.registry import written

FORMAT = 1


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

    def compress(self, model: Any) -> Any:
        """Let `generate` of a model obey it from now on: prompts of a batch climb apart.

        The model may come bare, or as it was saved with a compressor. `foveate.restore` takes the ladder off;
        `save_pretrained` saves the model with it, and `foveate.from_pretrained` brings both back. Returns the
        model it was given. Raises ValueError as `hosts.climbing.obey` does.
        """
        saved = model.model.visual_compressor if attach.is_compressed(model) else None
        told = {k: v for k, v in asdict(self).items() if k not in ("method", "switches")}
        method = self._at(self.keeps[0], model, saved)
        return attach.compress(
            model, method, ladder={**told, "keeps": [*self.keeps]}, **self.switches
        )

    def rungs(self, model: Any, saved: Compressor | None = None) -> list[Compressor | None]:
        """Its compressors, built for a model; saved: the one the model was saved with."""
        return [
            None if climbing.every(keep) else self._at(keep, model, saved) for keep in self.keeps
        ]

    def _at(self, keep: int | float, model: Any, saved: Compressor | None) -> Compressor:
        """Its method at this budget."""
        if self.method is not None:
            return written.spec(self.method).build(keep, model)
        if saved is None or not saved.elastic:
            raise ValueError("the ladder is of a model that was saved with a method for any budget")
        return saved.but(keep=keep)

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
