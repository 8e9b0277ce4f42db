"""HoloV: every part of the picture has a share of the budget, the lively ones a larger one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, language
from foveate.core.groups import apportioned, sizes, summed, top_of_each
from foveate.core.ops import Keep, budget, check_keep, cosine, number, whole
from foveate.core.tokens import VisualTokens


class HoloV(Compressor):
    """Share the budget out over crops, in each by attention. Zou et al. 2025, arXiv:2510.02912.

    Crops are runs of neighbouring tokens in reading order, `crops` of an image. A token scores the class
    token's attention and, `diversity` times, how much its cosines to the others of its crop vary, scaled to
    the mean of the attention. A crop's share is its mean score; in it the tokens most looked at stay.
    ValueError for no crops and a negative diversity.

    Differs from the paper: the authors' code takes that scale crop by crop, where it takes the diversity out
    of the shares again; here it is the image's, and diversity=0 chooses as their code does. What a crop has
    no room for goes to the others, where theirs fills up with zeros. Tokens stay in order, theirs stand by
    attention; positions are kept unless `compress(…, positions="renumbered")`.
    """

    needs = frozenset({"cls_attention"})
    selects = True

    def __init__(self, keep: Keep = 64, crops: int = 16, diversity: float = 0.09):
        super().__init__()
        self.keep, self.crops = check_keep(keep), whole("crops", crops)
        self.diversity, self.site = number("diversity", diversity), language(0)

    @torch.no_grad()
    def _chosen(self, tokens: VisualTokens, attention: Tensor) -> Tensor:
        valid, count, attention = tokens.valid, tokens.counts[:, None], attention.float()
        crop = _runs(count, valid.shape[1], self.crops)
        size = sizes(crop, self.crops, valid)
        varied = _variance(tokens.x, crop, size, valid).masked_fill(~valid, 0)
        scale = attention.masked_fill(~valid, 0).sum(1, keepdim=True)
        scale = scale / varied.sum(1, keepdim=True).clamp(min=1e-12)
        score = attention + self.diversity * scale * varied
        mean = summed(score, crop, self.crops, valid) / size.clamp(min=1)
        n = apportioned(budget(self.keep, count), mean, size)
        return top_of_each(attention, crop, n, valid)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The most looked at of every crop. tokens.x (B, N, D)."""
        return tokens.where(self._chosen(tokens, context.cls_attention))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "crops": self.crops, "diversity": self.diversity}


def _runs(count: Tensor, N: int, runs: int) -> Tensor:
    """(B, N) which run each token is in; the first ones are longer by one where they are not equal.

    count (B, 1) tokens of each row.
    """
    place = torch.arange(N, device=count.device)
    size, longer = count // runs, count % runs
    short = longer + (place - longer * (size + 1)).div(size.clamp(min=1), rounding_mode="floor")
    run = torch.where(place < longer * (size + 1), place // (size + 1), short)
    return run.clamp(max=runs - 1)


def _variance(x: Tensor, crop: Tensor, size: Tensor, valid: Tensor) -> Tensor:
    """(B, N) how a token's cosines to the others of its crop vary.

    Its own counts as a deviation from 0, as in the authors' code. x (B, N, D), crop and valid (B, N),
    size (B, G).
    """
    others = (crop[:, None] == crop[..., None]) & valid[:, None] & valid[..., None]
    others = others & ~torch.eye(len(others[0]), dtype=torch.bool, device=x.device)
    alike = cosine(x, x) * others
    n = size.gather(1, crop)
    mean = alike.sum(-1) / (n - 1).clamp(min=1)
    far = (alike - mean[..., None]).square() * others
    return (far.sum(-1) + mean.square()) / (n - 1).clamp(min=1)
