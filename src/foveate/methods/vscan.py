"""VScan: a scan window by window and one of the whole picture, and what is dropped joins what is kept."""

from __future__ import annotations

from typing import Any

import torch

from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, language
from foveate.core.groups import sizes, top_of_each
from foveate.core.ops import Keep, budget, check_keep, cosine, top, whole, windows
from foveate.core.sizes import scaled, scaled_block
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens

SHALLOW, MIDDLE = 5, 16  # of 24 blocks, from 0; of 32 layers


class GlobalLocalScan(Compressor):
    """Keep the best of every window and of all, merge the rest. Zhang et al. 2025, arXiv:2505.22654.

    Half of the budget goes in equal numbers to windows of `window` × `window` patches, there by the class
    token's attention in block 5 of 24; what is left goes by that of the block which makes the features.
    Every dropped token joins the kept one with the most similar vector, which becomes their mean.
    tower_layers: blocks of the tower (`foveate.sized` takes them from the model); the shallow block is
    scaled to them.

    Differs from the paper: where the windows do not share half of the budget evenly, the whole picture has
    what is left; positions are kept unless `compress(…, positions="renumbered")`.
    """

    needs = frozenset({"cls_attention", "attentions", "grid"})
    selects = True

    def __init__(self, keep: Keep = 96, window: int = 6, tower_layers: int = 24):
        super().__init__()
        self.keep, self.window, self.site = check_keep(keep), whole("window", window), language(0)
        self.tower_layers = whole("tower_layers", tower_layers)
        self.vision_blocks = (scaled_block(SHALLOW, self.tower_layers),)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Kept tokens with what joined them. tokens.x (B, N, D)."""
        valid, n = tokens.valid, budget(self.keep, tokens.counts[:, None])
        (shallow,) = (context.attentions[i] for i in self.vision_blocks)
        window, W = windows(tokens.of_first(context.grid), self.window, valid)
        there = sizes(window, W, valid) > 0
        each = (n // 2) // there.sum(1, keepdim=True).clamp(min=1)
        kept = top_of_each(shallow, window, each.expand_as(there), valid)
        left = n - kept.sum(1, keepdim=True)
        kept = kept | top(context.cls_attention, left, valid & ~kept)
        with torch.no_grad():
            alike = cosine(tokens.x, tokens.x).masked_fill(~kept[:, None], -torch.inf)
        N = valid.shape[1]
        place = torch.arange(N, device=valid.device)
        return tokens.merge(torch.where(valid & ~kept, alike.argmax(-1), place), N)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "window": self.window, "tower_layers": self.tower_layers}


class MiddleCut(Compressor):
    """Keep what the last prompt token would look at half way. VScan's second half, Zhang et al. 2025.

    One cut before decoder layer `layer`, at least 1 (ValueError), by that very layer's own norm, queries and
    keys. keep: of all the image's patches. arXiv:2505.22654.
    """

    needs = frozenset({"own_attention"})
    selects = True

    def __init__(self, keep: Keep = 32, layer: int = 16):
        super().__init__()
        if layer == 0:
            raise ValueError("layer=0: MiddleCut acts inside the language model; want layer >= 1")
        self.keep, self.site = check_keep(keep), language(layer)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens most looked at. tokens.x (B, N, D)."""
        n = budget(self.keep, tokens.patches[:, None])
        return tokens.where(top(context.own_attention, n, tokens.valid))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer}


@spoken
def vscan(keep: Keep = 32, window: int = 6, layers: int = 32, tower_layers: int = 24) -> Chain:
    """Scan windows and the whole picture, merge the rest, cut half way. Zhang et al. 2025, arXiv:2505.22654.

    `GlobalLocalScan` to three times the budget before the language model, `MiddleCut` to it before layer 16
    of 32: 96 tokens and then 32, as in the paper, are 64 as a mean over the layers.

    keep: what the last layers see. layers, tower_layers: the model's depths (`foveate.sized` takes them from
    it), to which layer 16 and the shallow block are scaled. Raises ValueError for other budgets.
    """
    first = min(3 * keep, 1.0) if isinstance(check_keep(keep), float) else 3 * keep
    scan = GlobalLocalScan(first, window, tower_layers)
    return Chain(scan, MiddleCut(keep, scaled(MIDDLE, layers)))
