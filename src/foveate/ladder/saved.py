"""A calibrated ladder as a file: what to ask with, when to climb, and what was shown of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foveate.evaluate.prompts import Ask
from foveate.evaluate.replies import Reply, replies
from foveate.hosts import attach
from foveate.keeping.provenance import content, dumps, record, sealed, unsealed, write
from foveate.registry import loading, setting

FORMAT = 1


@dataclass(frozen=True)
class Ladder:
    """A ladder of budgets, and the threshold that was calibrated for it.

    method     as people write it
    keeps      budgets, fewest tokens first; 1.0 is all tokens, without a method
    threshold  nats of entropy of the first token, above which a question climbs; 0: all do
    risk       at most this share of all answers differs from those with all tokens,
    delta      but with this probability over the questions it was calibrated on
    n          questions it was calibrated on
    task       their name, and `examples` their digest
    model      its name, and `fingerprint` its weights: what is shown is shown of these
    switches   what else `foveate.compress` is told
    saved      whether the method is the one that the model was saved with, on its weights
    """

    method: str
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
    saved: bool = False

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
        """Let a model obey it from now on, `generate` too: prompts of a batch climb apart.

        The model may come bare, or as it was saved with a compressor. `foveate.restore` takes the ladder off;
        `save_pretrained` saves the model with it, and `foveate.from_pretrained` brings both back. Returns the
        model it was given. Raises ValueError for another model than the ladder was calibrated for: nothing is
        shown of that.
        """
        spec = setting.of_ladder(asdict(self))
        return attach.compress(model, loading.of_spec(model, spec), **spec.switches)

    def answers(
        self, model: Any, processor: Any, asks: Sequence[Ask], max_new_tokens: int
    ) -> list[Reply]:
        """A batch of questions, each answered from as few tokens as leave no doubt; see `compress`.

        Afterwards the model is what it was. Unlike `generate`, this encodes a picture anew for each rung, so
        it serves every method.
        """
        with attach.lent(model):
            return replies(self.compress(model), processor, asks, max_new_tokens)
