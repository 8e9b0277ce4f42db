"""Random selection: the baseline that many published selectors fail to beat by much."""

from __future__ import annotations

from typing import Any

import torch

from foveate.core.compressor import Compressor, Context, language
from foveate.core.ops import Keep, check_keep, top, whole
from foveate.core.tokens import VisualTokens


class Random(Compressor):
    """Keep tokens at random, in order. The baseline of every comparison: no paper.

    At inference each image sees the same draw, so an answer does not depend on its batch; in training
    each sample and step draws anew. `keep` and `layer` as everywhere; ValueError if they mean nothing.
    """

    needs = frozenset({"generator"})
    selects = True

    def __init__(self, keep: Keep = 0.5, layer: int = 0, seed: int = 0):
        super().__init__()
        self.keep, self.site, self.seed = check_keep(keep), language(layer), whole("seed", seed, 0)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """A random subset. tokens.x (B, N, D)."""
        N = tokens.x.shape[1]
        draws = [torch.rand(N, generator=g) for g in context.generator]
        return tokens.where(top(torch.stack(draws).to(tokens.x.device), self.keep, tokens.valid))

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"keep": self.keep, "layer": self.site.layer, "seed": self.seed}
