"""CDPruner: tokens that differ and matter to the question, by a determinantal point process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, budget, check_keep, choice, pick
from foveate.core.tokens import VisualTokens

SIDES = ("away", "towards")
TINY = 1e-6


class CDPruner(Compressor):
    """Keep the widest set of tokens, each as long as relevant. Zhang et al. 2025, arXiv:2506.10967.

    A determinantal point process: its kernel is the cosine of every two tokens times the relevance of both,
    and the set of largest determinant is built greedily. Relevance is the cosine to the instruction's words,
    their mean, brought to (0, 1] over the image; without words it is 1. side: "away", as published, lets a
    token count the more the less it resembles the words; "towards" turns that round. ValueError for others.

    Differs from the paper: relevance is read from the language model's own embeddings of tokens and words,
    because checkpoints of LMMs carry no CLIP text tower (where one is at hand: foveate.CLIPCDPruner); each
    image is brought to (0, 1] by itself and not with its batch; positions are kept unless
    `compress(…, positions="renumbered")`.
    """

    needs = frozenset({"text", "text_mask"})
    optional = needs
    selects = True
    site = language(0)

    def __init__(self, keep: Keep = 64, side: str = "away"):
        super().__init__()
        self.keep, self.side = check_keep(keep), choice("side", side, SIDES)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """The set that spans most. tokens.x (B, N, D)."""
        n = budget(self.keep, tokens.counts[:, None])
        if bool((n == tokens.counts[:, None]).all()):
            return tokens
        relevance = self.scores(tokens, context)
        vectors = normalize(tokens.x.detach().float(), dim=-1) * relevance[..., None]
        return tokens.where(widest(vectors, n, tokens.valid))

    @torch.no_grad()
    def scores(self, tokens: VisualTokens, context: Context) -> Tensor:
        """(B, N) the relevance of each token, in (0, 1]."""
        valid, (seen, words, said) = tokens.valid, self.compared(tokens, context)
        words = normalize(words.float(), dim=-1) * said[..., None]
        count = said.sum(1)[:, None, None].clamp(min=1)
        mean = words.sum(1, keepdim=True) / count
        alike = (normalize(seen.float(), dim=-1) * mean).sum(-1)
        alike = -alike if self.side == "away" else alike
        low = alike.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
        high = alike.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
        share = (alike - low + TINY) / (high - low + TINY)
        return torch.where(said.any(1, keepdim=True), share, 1.0).masked_fill(~valid, 0)

    def compared(self, tokens: VisualTokens, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """What relevance is the cosine of: tokens (B, N, E), words (B, T, E), and which are words (B, T)."""
        return tokens.x, context.text, context.text_mask

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "side": self.side}


def widest(x: Tensor, n: Tensor, valid: Tensor) -> Tensor:
    """(B, N) True at n vectors of each row whose Gram determinant is large: greedily, the first of equals.

    In each step the vector that is longest once its part within the span of those taken is gone: an
    incremental Cholesky factorisation, Chen et al. 2018, arXiv:1709.05135. x (B, N, D), n (B, 1).
    """
    B, N, _ = x.shape
    steps = int(n.max())
    kernel = x @ x.mT
    rest = kernel.diagonal(dim1=1, dim2=2).masked_fill(~valid, -torch.inf).clone()
    factor = x.new_zeros(B, steps, N)
    taken = torch.zeros_like(valid)
    for step in range(steps):
        best = rest.argmax(1, keepdim=True)
        taken = taken | torch.zeros_like(taken).scatter(1, best, step < n)
        known = factor[:, :step]
        own = known.gather(2, best[:, None].expand(-1, step, -1))
        length = rest.gather(1, best).clamp(min=TINY).sqrt()
        factor[:, step] = (pick(kernel, best)[:, 0] - (own.mT @ known)[:, 0]) / length
        rest = (rest - factor[:, step].square()).masked_fill(taken | ~valid, -torch.inf)
    return taken
