"""PyramidDrop: fewer tokens the deeper the layer, chosen by each layer for itself."""

from __future__ import annotations

from typing import Any

from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, top, whole
from foveate.core.sizes import scaled
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens

DEPTHS = (8, 16, 24)  # of 32 layers


class PyramidDrop(Compressor):
    """Drop the tokens that the next layer would look at least. Xing et al. 2024, arXiv:2410.17247.

    One cut before decoder layer `layer`, at least 1 (ValueError). The score is the attention that the last
    prompt token would give each token in that very layer: by its own norm, queries, keys and positions, so
    these are computed once more. `keep`, of all the image's patches, is what is left after `cuts` cuts, of
    which this is the first: each keeps the same share, rounded down. With cuts=1 this is the last one.
    """

    needs = frozenset({"own_attention"})
    selects = True
    renumbered = True

    def __init__(self, keep: Keep = 0.5, layer: int = 8, cuts: int = 1):
        super().__init__()
        if layer == 0:
            raise ValueError("layer=0: PyramidDrop acts inside the language model; want layer >= 1")
        self.keep, self.site = check_keep(keep), language(layer)
        self.cuts = whole("cuts", cuts)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens most looked at. tokens.x (B, N, D)."""
        n = tokens.counts.double()
        last = budget(self.keep, tokens.patches).minimum(tokens.counts)
        here = n * (last / n.clamp(min=1)) ** (1 / self.cuts)
        here = (here + 1e-6).floor().long()  # a root is not exact
        return tokens.where(top(context.own_attention, here[:, None], tokens.valid))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer, "cuts": self.cuts}


@spoken
def pyramiddrop(keep: Keep = 0.125, layers: int = 32) -> Chain:
    """Drop a share at three depths, by each layer's own look. Xing et al. 2024, arXiv:2410.17247.

    Before layers 8, 16 and 24 of 32. The paper's setting halves each time: 576 tokens become 288, 144 and 72,
    or 270 as a mean over the layers. The authors count positions anew: compress(…, positions="renumbered").

    keep: what the last layers see, λ³ in the paper's letters; each cut keeps the share λ of what arrives.
    layers: decoder layers of the model (`foveate.sized` takes them from it); the three depths are scaled to
    them, never below layer 1. Raises ValueError for other budgets and for models of less than two layers.

    In training it acts as at inference. The authors take the mean over the last tokens of all questions of a
    conversation; here a row has one.
    """
    depths = [scaled(depth, layers) for depth in DEPTHS]
    return Chain(*(PyramidDrop(keep, layer, 3 - i) for i, layer in enumerate(depths)))
