"""V2Drop: tokens that a layer hardly changes are not needed by the next ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, real, top
from foveate.core.sizes import scaled
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens

DEPTHS = (3, 17, 22)  # of 32 layers


class V2Drop(Compressor):
    """Drop the tokens that the layer before changed least. Chen et al. 2025, arXiv:2509.01552.

    One cut before decoder layer `layer`, at least 1 (ValueError). A token's score is the Euclidean distance
    from what it was as it entered the layer before; no attention is read. Stays `share` of the tokens that
    arrive, rounded down, and never less than `keep`, of all the image's patches.
    """

    needs = frozenset({"previous"})
    selects = True

    def __init__(self, keep: Keep = 1, layer: int = 22, share: float = 0.0):
        super().__init__()
        self.share = real(share)
        if self.share is None or not 0 <= self.share <= 1:
            raise ValueError(f"share={share!r}: want a share of the tokens that arrive, in [0, 1]")
        if layer == 0:
            raise ValueError("layer=0: V2Drop reads what the layer before changed; want layer >= 1")
        self.keep, self.site = check_keep(keep), language(layer)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens that changed most. tokens.x, context.previous (B, N, D)."""
        share = (tokens.counts.double() * self.share).floor().long()
        n = budget(self.keep, tokens.patches).maximum(share)
        return tokens.where(top(self.scores(tokens, context), n[:, None], tokens.valid))

    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) how far each token moved."""
        return (tokens.x.detach().float() - context.previous.float()).norm(dim=-1)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer, "share": self.share}


@spoken
def v2drop(keep: Keep = 1, share: float = 0.5, layers: int = 32) -> Chain:
    """Drop what layers change least, in three cuts. Chen et al. 2025, arXiv:2509.01552.

    Before layers 3 and 17 of 32 `share` of the tokens that arrive stay, rounded down, before 22 `keep`.

    keep: what the last layers see; the earlier cuts never leave less. The paper's is one token: 576 become
    288, 144 and 1, or 203 as a mean over the layers.
    layers: decoder layers of the model (`foveate.sized` takes them from it); the three depths are scaled to
    them, never below layer 1. Raises ValueError for other budgets and shares, and for models of less than
    two layers.
    """
    first, second, last = (scaled(depth, layers) for depth in DEPTHS)
    return Chain(V2Drop(keep, first, share), V2Drop(keep, second, share), V2Drop(keep, last))
