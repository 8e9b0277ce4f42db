"""Muon for many small matrices: momentum, orthogonalized, in single precision and in batches.

After Jordan et al. 2024 (kellerjordan.github.io/posts/muon). PyTorch's own works matrix by matrix
in bfloat16, which CPUs without bfloat16 units emulate.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

STEPS = ((3.4445, -4.7750, 2.0315),) * 5


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum; the step is scaled to the size of an AdamW step."""

    def __init__(
        self, groups: Iterable, lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for shape, weights in alike.items():
                moves = torch.stack(
                    [self._momentum(weight, group["momentum"]) for weight in weights]
                )
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for weight, move in zip(weights, orthogonalized(moves), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(move, alpha=-scale)

    def _momentum(self, weight: Tensor, share: float) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - share)
        return weight.grad.lerp(state["momentum"], share)


def orthogonalized(moves: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, by five Newton-Schulz steps; (n, rows, columns)."""
    tall = moves.shape[1] > moves.shape[2]
    x = moves.mT if tall else moves
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in STEPS:
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
