"""What is dropped joins what is kept."""

from __future__ import annotations

import torch

from foveate.core.ops import cosine
from foveate.core.tokens import VisualTokens


def joined(came: VisualTokens, left: VisualTokens) -> VisualTokens:
    """Every dropped token in the kept one of its image that is most like it, which becomes their mean.

    came: (B, N, D) before a compressor; left: (B, M, D) behind it. Likeness is the cosine of the vectors; in
    the mean a token counts as often as it carries patches, as in VScan, Zhang et al. 2025, arXiv:2505.22654.
    Nothing changes where nothing was dropped, or nothing is left. Raises ValueError where the compressor
    gives vectors of another width.
    """
    lost = (left.owner == -1) & (came.owner >= 0) & left.valid.any(1, keepdim=True)
    if not bool(lost.any()):
        return left
    if came.x.shape[-1] != left.x.shape[-1]:
        raise ValueError(
            f"{int(lost.sum())} dropped patches of width {came.x.shape[-1]} cannot join tokens of width "
            f"{left.x.shape[-1]}: a compressor in the projector's place drops them with their vectors; leave "
            "out dropped='merged'"
        )
    M = left.valid.shape[1]
    owner = torch.where(
        lost, came.owner + M, left.owner
    )  # all in one row: the kept, then those who came
    valid = torch.cat([left.valid, came.total(lost.long()) > 0], dim=1)
    with torch.no_grad():
        alike = cosine(came.x, left.x).masked_fill(~left.valid[:, None], -torch.inf)
    stays = torch.arange(M, device=valid.device).expand_as(left.valid)
    into = torch.cat([stays, alike.argmax(-1)], dim=1)
    x = torch.cat([left.x, came.x.to(left.x.dtype)], dim=1)
    return VisualTokens(x, owner, valid, left.penalty).merge(into, M)
