"""VCC-attention: block means, but for the blocks that the question looks at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, top, whole
from foveate.core.tokens import VisualTokens


class VCCAttention(Compressor):
    """Average blocks but for those most looked at. Chen et al. 2024, arXiv:2406.20092.

    A baseline of the paper on LLaVolta. Blocks of `block` tokens in reading order become their means;
    the `fine` blocks (3 unless told) that the last prompt token attends to most stay token by token: of
    576 tokens 33 means and 48 fine ones, 81. The last block may be shorter. Scores are those of the
    layer before `layer`, which must be at least 1 (ValueError).

    `keep` in the place of `fine` is met exactly (ours): blocks become fine one after the other, the last
    of them only in the tokens most looked at, beside the mean of its rest. Every block keeps at least
    one token: a smaller budget is a ValueError at the first prompt.
    """

    needs = frozenset({"last_attention"})
    selects = True

    def __init__(
        self, keep: Keep | None = None, fine: int | None = None, block: int = 16, layer: int = 2
    ):
        super().__init__()
        if keep is not None and fine is not None:
            raise ValueError(f"keep={keep!r} and fine={fine!r} say the same thing: give one")
        self.keep = None if keep is None else check_keep(keep)
        self.fine = whole("fine", 3 if fine is None else fine, 0) if keep is None else None
        self.block, self.site = whole("block", block, 1), language(layer)
        if layer == 0:
            raise ValueError("layer=0: it reads the attention of the layer before; want layer >= 1")

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Means of blocks, and the tokens that stay beside them. tokens.x (B, N, D)."""
        B, N, _ = tokens.x.shape
        own = torch.arange(N, device=tokens.x.device).expand(B, N)
        size = min(self.block, max(N, 1))
        block = own // size
        score = context.last_attention.float().masked_fill(~tokens.valid, 0)
        padded = nn.functional.pad(score, (0, -N % size))
        looked = padded.unflatten(1, (-1, size)).sum(-1)
        turn = _place(looked).gather(1, block)  # (B, N) 0 in the block most looked at
        # By turn, and within a block by score; padding goes last.
        order = score.masked_fill(~tokens.valid, -1).argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, turn.gather(1, order).argsort(dim=1, stable=True))
        place = order.argsort(dim=1)

        # Of each block the token least looked at stands for the mean, so it costs no budget.
        last = torch.full_like(looked, -1, dtype=torch.long)
        last = last.scatter_reduce(1, block, place.masked_fill(~tokens.valid, -1), "amax")
        if self.keep is None:
            stays = turn < self.fine
        else:
            beside = tokens.valid & (place != last.gather(1, block))
            stays = top(-place, self._room(tokens, last >= 0), beside)
        mean = order.gather(1, last.clamp(min=0)).gather(1, block)
        return tokens.merge(torch.where(stays, own, mean), N)

    def _room(self, tokens: VisualTokens, blocks: Tensor) -> Tensor:
        """(B, 1) how many tokens stay beside one for each block. ValueError if there is no room."""
        n, least = budget(self.keep, tokens.counts), blocks.sum(1)
        if (n < least).any():
            row = int((least - n).argmax())
            raise ValueError(
                f"keep={self.keep!r} of {int(tokens.counts[row])} tokens: {int(least[row])} blocks of "
                f"{self.block} keep at least one each; want keep >= {int(least[row])} or larger blocks"
            )
        return (n - least)[:, None]

    def arguments(self) -> dict[str, Any]:
        """As given; without a budget, how many blocks stay fine."""
        return {
            "keep": self.keep,
            "fine": self.fine,
            "block": self.block,
            "layer": self.site.layer,
        }


def _place(score: Tensor) -> Tensor:
    """The place of each score in its row, 0 for the highest; of equals the earlier comes first."""
    return score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
