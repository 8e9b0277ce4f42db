"""FastV: after a few decoder layers, most visual tokens are hardly looked at."""

from __future__ import annotations

from typing import Any

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, check_keep, top
from foveate.core.tokens import VisualTokens


class FastV(Compressor):
    """Drop the tokens the last prompt token looks at least. Chen et al. 2024, arXiv:2403.06764.

    `layer` is the first decoder layer that sees fewer tokens (the paper's K, 2); scores are those of
    the layer before it, so it must be at least 1 (ValueError). Kept tokens keep their positions.

    Differs from the paper: drops the tokens for real instead of masking them, and computes the one
    attention row it reads instead of the whole matrix.
    """

    needs = frozenset({"last_attention"})
    selects = True

    def __init__(self, keep: Keep = 0.5, layer: int = 2):
        super().__init__()
        if layer == 0:
            raise ValueError(
                "layer=0: FastV reads the attention of the layer before; want layer >= 1"
            )
        self.keep, self.site = check_keep(keep), language(layer)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens most looked at. tokens.x (B, N, D)."""
        return tokens.where(top(context.last_attention, self.keep, tokens.valid))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer}
