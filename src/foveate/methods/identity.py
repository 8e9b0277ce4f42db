"""The bare model, as a method: the baseline every table starts with."""

from __future__ import annotations

from typing import Any

from foveate.core.compressor import Compressor, Context
from foveate.core.ops import Keep, real
from foveate.core.tokens import VisualTokens


class Identity(Compressor):
    """Keep every token. The uncompressed model: no paper."""

    selects = True
    keeps_all = True

    @classmethod
    def keeping(cls, keep: Keep = 1.0) -> Identity:
        """Identity for the only budget it has. Raises ValueError for any keep but 1.0."""
        if not (isinstance(given := real(keep), float) and given == 1):
            raise ValueError(f"keep={keep!r}: identity keeps everything; the only budget is 1.0")
        return cls()

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The same tokens. tokens.x (B, N, D)."""
        return tokens

    def arguments(self) -> dict[str, Any]:
        """None."""
        return {}
