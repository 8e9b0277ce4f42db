"""Newline embeddings, which some models put behind the rows of a large image.

Letters: I images, P patches, N tokens, Q newlines of an image, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.core.tokens import VisualTokens


@dataclass(frozen=True, eq=False)
class Newlines:
    """The newlines of each image: no compressor sees them, no budget counts them.

    x       (I, Q, D)  vectors
    column  (I, Q)     where they stand, -1 behind the last and where one left
    closes  (I, P)     which newline closes the row that a patch stands in; -1 none
    """

    x: Tensor
    column: Tensor
    closes: Tensor

    def alive(self, tokens: VisualTokens) -> Tensor:
        """(I, Q) which newlines stay: one leaves when its row held patches and no token stands there now."""
        closes = tokens.of_first(self.closes).masked_fill(~tokens.valid, -1)
        return (self._among(closes) | ~self._among(self.closes)) & (self.column >= 0)

    def left(self, tokens: VisualTokens, closed: bool) -> Newlines:
        """Those that stay beside these tokens; none unless `closed`."""
        alive = self.alive(tokens) & closed
        return replace(self, column=self.column.masked_fill(~alive, -1))

    def moved(self, back: Tensor) -> Newlines:
        """The same in other columns. back (I, S) the new place of every column."""
        now = back.gather(1, self.column.clamp(min=0))
        return replace(self, column=torch.where(self.column < 0, -1, now))

    def rows(self, index: Tensor) -> Newlines:
        """Those of some images, or of some several times. index (I',)."""
        return Newlines(self.x[index], self.column[index], self.closes[index])

    def _among(self, closes: Tensor) -> Tensor:
        """(I, Q) which newlines are among these. closes (I, …), -1 is none of them."""
        Q = self.x.shape[1]
        found = torch.zeros(len(closes), Q + 1, dtype=torch.bool, device=closes.device)
        return found.scatter(1, closes % (Q + 1), True)[:, :-1]
