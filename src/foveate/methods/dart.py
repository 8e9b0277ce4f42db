"""DART: what duplicates a few pivots is dropped, however important it looks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, cosine, pick, top, whole
from foveate.core.tokens import VisualTokens


class DART(Compressor):
    """Keep a few pivots, and what is least like them. Wen et al. 2025, arXiv:2502.11494.

    Before decoder layer `layer`, at least 1 (ValueError). Pivots are the `pivots` visual tokens and the
    `words` words of the instruction behind the image that have the largest keys in the layer before (L1
    norm, heads joined, after rotary embedding). Pivot after pivot, those of the tokens that are left and
    least like it (cosine, behind the language model's last norm) join the visual pivots, in equal numbers,
    until exactly `keep` are together.

    The references differ: the authors' code takes ⌊keep / number of pivots⌋ for each pivot, which comes to
    some more than keep, AngelSlim's an equal share of what the visual pivots leave, until keep is reached.
    Here it is the latter, so that budgets compare. Of the authors' code are the last norm, and that words
    stand behind the image. There pivots come in the arbitrary order of a set: here visual ones first, then
    words, the largest key first.
    """

    needs = frozenset({"key_size", "normed", "words"})
    selects = True

    def __init__(self, keep: Keep = 128, layer: int = 2, pivots: int = 4, words: int = 4):
        super().__init__()
        if layer == 0:
            raise ValueError("layer=0: DART reads the keys of the layer before; want layer >= 1")
        self.keep, self.site = check_keep(keep), language(layer)
        self.pivots, self.words = whole("pivots", pivots), whole("words", words, 0)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Pivots and what is least like them. tokens.x (B, N, D)."""
        n = budget(self.keep, tokens.counts)[:, None]
        kept = top(context.key_size, n.clamp(max=self.pivots), tokens.valid)
        alike, there = self._pivots(tokens, context)
        pivots = there.sum(1, keepdim=True).clamp(min=1)
        share = (n - kept.sum(1, keepdim=True) + pivots - 1) // pivots  # rounded up
        for similarity, real in zip(alike.unbind(1), there.unbind(1), strict=True):
            room = share.minimum(n - kept.sum(1, keepdim=True)) * real[:, None]
            kept = kept | top(-similarity, room, tokens.valid & ~kept)
        return tokens.where(kept)

    def _pivots(self, tokens: VisualTokens, context: Context) -> tuple[Tensor, Tensor]:
        """(B, V, N) how like each token is to each pivot, and (B, V) which of them there are."""
        words = context.words
        own, real = _largest(context.key_size, tokens.valid, self.pivots)
        said, heard = _largest(words["key_size"], words["mask"], self.words)
        vectors = torch.cat([pick(context.normed, own), pick(words["normed"], said)], dim=1)
        return cosine(vectors, context.normed), torch.cat([real, heard], dim=1)

    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) the sizes of keys, by which pivots are chosen."""
        return context.key_size

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {
            "keep": self.keep,
            "layer": self.site.layer,
            "pivots": self.pivots,
            "words": self.words,
        }


def _largest(size: Tensor, valid: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The places of the largest in each row, largest first, and which of them are real. size (B, N)."""
    size = size.float().masked_fill(~valid, -torch.inf)
    order = size.argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, valid.gather(1, order)
