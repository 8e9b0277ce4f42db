"""PruMerge: how many tokens stand out decides how many stay, and they take in what is like them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, Site, Tower, language
from foveate.core.ops import (
    Keep,
    budget,
    check_keep,
    choice,
    cosine,
    every_few,
    in_front,
    pick,
    top,
)
from foveate.core.tokens import VisualTokens

NEAR = 32  # tokens that a kept one takes in


class PruMerge(Compressor):
    """Keep the tokens that stand out, and add to them what is alike. Shang et al. 2024, arXiv:2403.15388.

    Tokens stand out where the class token's attention in the tower's last block lies above the third
    quartile by more than 1.5 times the distance of the quartiles, so every image keeps another number
    (keep=None). To each the 32 tokens with the most similar keys are added, weighted by their attention; one
    token more is the sum of all that are not kept, weighted so. With `spatial`, PruMerge+, tokens at even
    steps stay too. It stands before the projector, or with `projected` behind it, for models whose projector
    does not take tokens one by one.

    A `keep` fixes the number instead, the token for the rest included: the most looked at, with `spatial` for
    half of them, and even steps through the others for the other half. keep=1 has no room for the rest; an
    image that keeps all stays as it is.

    Differs from the paper: heads are averaged where the authors join them to one, keys are those of the block
    that makes the features, and every image has quartiles of its own, not the batch. Tokens stay in order,
    theirs stand by attention. At least one token is kept. Where many stand out, `spatial` takes all others;
    the authors' code stops with an error. Positions are kept unless `compress(…, positions="renumbered")`.
    """

    needs = frozenset({"attentions", "keys"})
    vision_blocks = (-1,)
    selects = True
    behind = "PruMerge(projected=True)"

    def __init__(self, keep: Keep | None = None, spatial: bool = False, projected: bool = False):
        super().__init__()
        self.keep = None if keep is None else check_keep(keep)
        self.spatial, self.projected = choice("spatial", spatial, (True, False)), projected
        self.site = language(0) if projected else Site(Tower.features)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Kept tokens with what was added, and the sum of the rest. tokens.x (B, N, D)."""
        (attention,) = (context.attentions[i].float() for i in self.vision_blocks)
        choose = self._outlying if self.keep is None else self._fixed
        kept, gathers = choose(attention, tokens.valid)
        rest = tokens.valid & ~kept
        added = tokens.carry(_added(tokens.x, attention, context.keys, kept, rest))
        stays = kept | (rest & gathers)
        tokens = added.where(stays)
        kept = pick(kept, in_front(stays, tokens.valid.shape[1]))
        return _gathered(tokens, tokens.valid & ~kept)

    def _outlying(self, attention: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) the tokens that stand out, and whether there is a token for the rest: always."""
        count, known = valid.sum(1, keepdim=True), attention.masked_fill(~valid, torch.nan)
        low, high = (torch.nanquantile(known, q, dim=1, keepdim=True) for q in (0.25, 0.75))
        n = (known > high + 1.5 * (high - low)).sum(1, keepdim=True).clamp(min=1)
        kept = top(attention, n, valid)
        if self.spatial:
            place = torch.arange(valid.shape[1], device=valid.device)
            step = (count // n // 3).clamp(min=1)
            kept = kept | (place % step == 0) & (place < count - 1)
        return kept & valid, torch.ones_like(count, dtype=torch.bool)

    def _fixed(self, attention: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) as many as the budget says, and (B, 1) whether it has a token for the rest."""
        count = valid.sum(1, keepdim=True)
        n = budget(self.keep, count)
        gathers = (n < count) & (n > 1)
        n = n - gathers.long()
        even = n // 2 if self.spatial else torch.zeros_like(n)
        kept = top(attention, n - even, valid)
        return kept | every_few(valid & ~kept, even), gathers

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "spatial": self.spatial, "projected": self.projected}


def _added(x: Tensor, attention: Tensor, keys: Tensor, kept: Tensor, rest: Tensor) -> Tensor:
    """(B, N, D) kept tokens with what is alike, the first of the rest as the sum of all the rest.

    x (B, N, D), attention, kept, rest (B, N), keys (B, N, d).
    """
    valid, taking = kept | rest, kept & rest.any(1, keepdim=True)
    with torch.no_grad():
        others = valid[:, None] & ~torch.eye(len(valid[0]), dtype=torch.bool, device=x.device)
        others = others.expand(len(x), -1, -1)
        near = top(cosine(keys, keys).flatten(0, 1), NEAR, others.flatten(0, 1)).view_as(others)
    wide = x.float()
    alike = wide + (near * attention[:, None]) @ wide
    total = ((rest * attention)[..., None] * wide).sum(1, keepdim=True)
    first = rest & (rest.cumsum(1) == 1)
    x = torch.where(taking[..., None], alike.to(x.dtype), x)
    return torch.where(first[..., None], total.to(x.dtype), x)


def _gathered(tokens: VisualTokens, rest: Tensor) -> VisualTokens:
    """The rest of each row as one token, with the vector of the first of them. rest (B, N)."""
    N = rest.shape[1]
    place = torch.arange(N, device=rest.device)
    first = rest.to(torch.uint8).argmax(1, keepdim=True)
    return tokens.merge(torch.where(rest, first, place), N, tokens.x)
