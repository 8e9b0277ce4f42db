"""Evenly spaced selection: the cheapest baseline, and the probe that measures the host alone."""

from __future__ import annotations

from typing import Any

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, check_keep, spread
from foveate.core.tokens import VisualTokens


class Stride(Compressor):
    """Keep tokens at even steps in reading order. A baseline: no paper.

    With `keep` = 1/s of N = s·M tokens this is every s-th token, from the middle of each run of s.
    """

    selects = True

    def __init__(self, keep: Keep = 0.5, layer: int = 0):
        super().__init__()
        self.keep, self.site = check_keep(keep), language(layer)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """An evenly spaced subset. tokens.x (B, N, D)."""
        return tokens.where(spread(self.keep, tokens.valid))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer}
