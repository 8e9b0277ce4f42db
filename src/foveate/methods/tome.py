"""ToMe: in every block of the vision tower, the tokens most alike become one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, Site, Tower
from foveate.core.ops import Keep, budget, check_keep, cosine, top, whole
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens


class ToMe(Compressor):
    """One merge of bipartite soft matching, before block `layer`. Bolya et al. 2022, arXiv:2210.09461.

    Every second token looks for the token of the others with the most similar key, mean over heads, in the
    block before; the r most similar pairs become one, their mean weighted by size. A class token takes no
    part. `keep`, of a view's patches, is what is left after `merges` merges, of which this is the first: r
    is an equal share of what has to go, and more where the later merges, which at most halve, could not.
    Raises ValueError for a budget that they cannot reach, and for layer 0, which no block is before.
    """

    needs = frozenset({"keys"})
    selects = True

    def __init__(self, keep: Keep = 0.5, layer: int = 1, merges: int = 1):
        super().__init__()
        self.keep, self.site = check_keep(keep), Site(Tower.vision, whole("layer", layer))
        self.merges = whole("merges", merges)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Tokens, r fewer. tokens.x (B, N, D)."""
        r = self._merged(tokens.counts[:, None], tokens.patches[:, None])
        N = tokens.valid.shape[1]
        with torch.no_grad():
            alike = cosine(context.keys[:, 1::2], context.keys[:, ::2])
            alike = alike.masked_fill(~tokens.valid[:, None, ::2], -torch.inf)
            likeness, nearest = alike.max(dim=-1)
            leaving = top(likeness, r, tokens.valid[:, 1::2])
        into = torch.arange(N, device=r.device).repeat(len(r), 1)
        into[:, 1::2] = torch.where(leaving, 2 * nearest, into[:, 1::2])
        return tokens.merge(into, N)

    def _merged(self, now: Tensor, patches: Tensor) -> Tensor:
        """(B, 1) how many pairs of tokens become one. Raises ValueError where no number of them would do.

        now, patches (B, 1) how many tokens there are, and there were.
        """
        last, later = budget(self.keep, patches), self.merges - 1
        share = (now - last + later).div(self.merges, rounding_mode="floor")
        r = share.maximum(now - last * 2 ** min(later, 31)).clamp(min=0)
        if bool((short := r > now // 2).any()):
            N, n = int(now[short][0]), int(last[short][0])
            least = -(-N // 2**self.merges)
            raise ValueError(
                f"keep={self.keep!r}: {self.merges} merges, each of which at most halves, leave {least} or "
                f"more of {N} tokens, not {n}"
            )
        return r

    def left(self, count: int, grid: Tensor) -> int | None:
        """What this merge leaves of an image of one view; of joined tiles, borders may be cut off."""
        if int(grid[:, 0].max()) > 0:
            return None
        return count - int(self._merged(torch.tensor([[count]]), torch.tensor([[len(grid)]])))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer, "merges": self.merges}


@spoken
def tome(keep: Keep = 0.25, feature_layer: int = 23) -> Chain:
    """Merge what is alike, a little in every block of the tower. Bolya et al. 2022, arXiv:2210.09461.

    One `ToMe` between any two blocks, up to the one that makes the features: 22 in LLaVA-1.5. From then on
    attention counts a token for as many patches as it carries, by the log of its size on the logits.

    keep: tokens left of every view at the end: of an image, of each tile, of each frame of a video. A merge
    at most halves, so a tower of few blocks cannot reach every budget: ValueError.
    feature_layer: the hidden state of the tower that the model takes (`foveate.sized` takes it from the
    model). Raises ValueError below 2, where no block is left to merge before.

    Differs from the paper: tokens merge behind a block's feed-forward layer, not before it, so the last
    block merges no more; they stay in reading order, which decides the next pairs; the schedule follows from
    `keep`, where the paper's says r for each block.
    """
    last = whole("feature_layer", feature_layer, least=2)
    if isinstance(check_keep(keep), float) and keep < 0.5 ** (last - 1):
        raise ValueError(
            f"keep={keep!r}: {last - 1} merges, each of which at most halves, keep {0.5 ** (last - 1):.3g} "
            "or more"
        )
    return Chain(*(ToMe(keep, layer, last - layer) for layer in range(1, last)))
