"""SparseVLM: the words of the question that concern the image rate its tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, choice, in_front, pick, real, top
from foveate.core.sizes import scaled
from foveate.core.spec import spoken
from foveate.core.tokens import VisualTokens

DEPTHS = (3, 7, 16)  # of 32 layers
# Tokens of 576 after each cut, by version and by what the authors call the budget.
TABLES = {
    1: {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    2: {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}


class SparseVLM(Compressor):
    """Keep what the raters among the words look at. Zhang et al. 2024, arXiv:2410.04417.

    One cut before decoder layer `layer`, at least 1 (ValueError). Raters are the instruction's words behind
    an image that its tokens are most like, by their input embeddings: those whose share of the softmax over
    all words, as a mean over the tokens, is above the mean; all words where none is. A token's score is the
    attention that it gets in the layer before, as a mean over the raters' rows. `keep` tokens stay, and never
    less than `share` of all the image's patches.

    With `recycle`, of the dropped tokens the 30 % with the highest scores, and one, come back as the means of
    their clusters (density peaks), one for ten of them, and one. These come on top of `keep`.
    """

    needs = frozenset({"prompt_attention"})
    selects = True

    def __init__(
        self, keep: Keep = 0.2, layer: int = 16, share: float = 0.0, recycle: bool = False
    ):
        super().__init__()
        self.share = real(share)
        if self.share is None or not 0 <= self.share <= 1:
            raise ValueError(f"share={share!r}: want a share of the image's patches, in [0, 1]")
        if layer == 0:
            raise ValueError("layer=0: it reads the attention of the layer before; want layer >= 1")
        self.keep, self.site = check_keep(keep), language(layer)
        self.recycle = self.renumbered = choice("recycle", recycle, (True, False))

    def raters(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, T) the words that the image is most like. tokens.x (B, N, D), context.text (B, T, D)."""
        text, said = context.text.float(), context.text_mask
        alike = (tokens.x.float() @ text.mT).masked_fill(~said[:, None], -torch.inf).softmax(-1)
        share = (alike * tokens.valid[..., None]).sum(1) / tokens.counts[:, None].clamp(min=1)
        above = said & (share > share.sum(1, keepdim=True) / said.sum(1, keepdim=True))
        return torch.where(above.any(1, keepdim=True), above, said)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The tokens most looked at, and clusters of some others. tokens.x (B, N, D)."""
        share = (tokens.patches.double() * self.share + 0.5).floor().long()
        n = budget(self.keep, tokens.patches).maximum(share)[:, None]
        keep = top(context.prompt_attention, n, tokens.valid)
        if not self.recycle or bool((keep == tokens.valid).all()):
            return tokens.where(keep)
        dropped = tokens.valid & ~keep
        count = dropped.sum(1, keepdim=True)
        again = top(context.prompt_attention, ((0.3 * count).long() + 1).minimum(count), dropped)
        return _recycled(tokens, keep, again)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {
            "keep": self.keep,
            "layer": self.site.layer,
            "share": self.share,
            "recycle": self.recycle,
        }


@spoken
def sparsevlm(
    keep: Keep | None = None, table: int = 192, version: int = 2, layers: int = 32
) -> Chain:
    """Keep what the words about the image look at, in three cuts. Zhang et al. 2024, arXiv:2410.04417.

    The authors cut the output of layers 2, 6 and 15 of 32: here that is before layers 3, 7 and 16.

    table: 192, 128, 96 or 64, which of the authors' budgets. Of 576 tokens 192 keeps 300, 200 and then 118,
    and the others are in TABLES; images of another size keep these shares. Its name is their mean over the
    layers, cuts one layer earlier supposed: as cut, 192 is 207.
    keep: what the last layers see, in the place of the table's; the earlier cuts never leave less.
    version: 2 drops. 1 has counts of its own, and gives some of what is dropped back as clusters, on top of
    them; its authors count positions anew, compress(…, positions="renumbered").
    layers: decoder layers of the model (`foveate.sized` takes them from it); the three depths are scaled to
    them, never below layer 1. Raises ValueError for anything else, and for models of less than two layers.

    Differs from the authors' code: no noise settles equal densities, and a cluster stands where its first
    token stood, not behind all others. Of version 2, the choice of heads and the correction for rotary
    distance are left out.
    """
    tables = TABLES[choice("version", version, TABLES)]
    counts = tables[choice("table", table, tables)]
    keep = counts[-1] / 576 if keep is None else check_keep(keep)
    shares = [count / 576 for count in counts[:-1]] + [0.0]
    cuts = zip(DEPTHS, shares, strict=True)
    return Chain(*(SparseVLM(keep, scaled(d, layers), s, recycle=version == 1) for d, s in cuts))


def _recycled(tokens: VisualTokens, keep: Tensor, again: Tensor) -> VisualTokens:
    """The tokens kept, and clusters of those that come back. keep, again (B, N)."""
    left = tokens.where(keep | again)
    order = in_front(keep | again, left.x.shape[1])
    again = again.gather(1, order) & left.valid
    count = again.sum(1, keepdim=True)
    index = in_front(again, int(count.max()))
    there = again.gather(1, index)
    centre = _clusters(pick(left.x, index), there, torch.where(count > 0, count // 10 + 1, 0))
    own = torch.arange(again.shape[1], device=again.device).expand_as(again)
    into = own.scatter(1, index, torch.where(there, index.gather(1, centre), index))

    # The plain mean: what a token carries already does not count.
    x = left.x.to(torch.promote_types(left.x.dtype, torch.float32)) * left.valid[..., None]
    total = torch.zeros_like(x).scatter_add(1, into[..., None].expand_as(x), x)
    members = torch.zeros_like(x[..., 0]).scatter_add(1, into, left.valid.to(x.dtype))
    mean = (total / members.clamp(min=1)[..., None]).to(left.x.dtype)
    return left.merge(into, again.shape[1], mean)


@torch.no_grad()
def _clusters(x: Tensor, there: Tensor, count: Tensor) -> Tensor:
    """(B, M) which vector is the centre of each one's cluster, by density peaks.

    x (B, M, D), there (B, M), count (B, 1) of clusters. A centre is dense, and far from denser ones.
    """
    M, D = x.shape[1:]
    x = x.float()
    both = there[:, None] & there[..., None]
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / D**0.5
    distance = distance.masked_fill(~both, torch.inf)
    near = torch.arange(M, device=x.device) < count[..., None]
    nearest = distance.square().sort(-1).values.masked_fill(~near, 0).sum(-1)
    density = (-nearest / count.clamp(min=1)).exp().masked_fill(~there, -1)
    farthest = distance.masked_fill(~both, 0).amax((1, 2), keepdim=True)
    denser = both & (density[:, None] > density[..., None])
    apart = torch.where(denser, distance, farthest).amin(-1)
    centre = top(density * apart, count, there)
    to = distance.masked_fill(~centre[:, None], torch.inf).argmin(-1)
    return torch.where(centre, torch.arange(M, device=x.device), to)
