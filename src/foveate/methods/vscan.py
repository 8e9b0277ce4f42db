"""VScan: a scan window by window and one of the whole picture, and what is dropped joins what is kept."""

from __future__ import annotations

from typing import Any

import torch

from foveate.core.compressor import Compressor, Context, language
from foveate.core.groups import sizes, top_of_each
from foveate.core.ops import Keep, budget, check_keep, cosine, top, whole, windows
from foveate.core.sizes import scaled_block
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens

SHALLOW = 5  # of 24 blocks, from 0


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


@spoken
def vscan(keep: Keep = 96, window: int = 6, tower_layers: int = 24) -> Compressor:
    """Scan windows and the whole picture, merge the rest. Zhang et al. 2025, arXiv:2505.22654.

    The paper's first half, `GlobalLocalScan`, before the language model. Its second half, a cut inside, is
    not here yet.
    """
    return GlobalLocalScan(keep, window, tower_layers)
