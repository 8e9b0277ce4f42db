"""What compressors add to the loss, told apart from the loss of the language model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Apart:
    """Sums the losses of a model's training forwards without and with what compressors add to them.

    The host adds a penalty behind the model's forward, so one hook reads the loss before it and one after;
    both are on the model inside `with apart:` and gone behind it, whatever ends the block.
    gather: brings (1, 2) of every process together, (processes, 2).
    """

    def __init__(self, model: nn.Module, gather: Callable[[Tensor], Tensor]):
        self.model, self.gather = model, gather
        self.own = self.whole = torch.zeros(())
        self.handles: list[Any] = []

    def __enter__(self) -> Apart:
        self.handles = [
            self.model.register_forward_hook(self._before, prepend=True),
            self.model.register_forward_hook(self._after),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        while self.handles:
            self.handles.pop().remove()

    def _before(self, model: nn.Module, args: tuple, output: Any) -> None:
        if model.training:
            self.own = self.own.to(output[0].device) + output[0].detach()

    def _after(self, model: nn.Module, args: tuple, output: Any) -> None:
        if model.training:
            self.whole = self.whole.to(output[0].device) + output[0].detach()

    def read(self, loss: float, device: torch.device) -> dict[str, float]:
        """A logged loss in its two terms, of the forwards since this was last read.

        {} where it has one term only, or where the language model's is no number: no share is known then.
        However the loss was scaled, over micro-batches and processes, its terms have the same shares.
        """
        sums = torch.stack([self.own.to(device), self.whole.to(device)]).float()
        own, whole = self.gather(sums[None]).cpu().double().sum(0).tolist()  # MPS has no doubles
        self.own = self.whole = torch.zeros(())
        if own == whole or not math.isfinite(own):
            return {}
        return {"language_loss": loss * own / whole, "penalty": loss * (whole - own) / whole}
