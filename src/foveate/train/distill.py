"""Self-distillation: the compressed answer learns from the same weights' answer with all tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from foveate.hosts import attach
from foveate.hosts.flow import KEY

TERMS = ("loss", "distillation", "full_loss")


class Distilled:
    """Adds to the loss of every training forward, inside `with`, what all tokens have to say.

    distill  weighs KL(all tokens ‖ compressed) over the answers' tokens; the teacher has no gradient
    full     weighs the loss of the same answers with all tokens, so that the whole picture stays known

    It is added within the forward, so that whoever shares gradients over ranks sees all of it, and scaled
    as the model's own loss is: gradient accumulation changes nothing. gather: as in `Apart`.
    """

    def __init__(
        self, model: nn.Module, distill: float, full: float, gather: Callable[[Tensor], Tensor]
    ):
        self.model, self.distill, self.full, self.gather = model, distill, full, gather
        self.sums = torch.zeros(len(TERMS))
        self.handle: Any = None

    def __enter__(self) -> Distilled:
        if self.distill or self.full:
            self.handle = self.model.register_forward_hook(self._add, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self.handle is not None:
            self.handle.remove()

    def _add(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        given = {name: value for name, value in kwargs.items() if name != KEY}
        whole = self._whole(model, args, given)
        answers = kwargs["labels"][:, 1:] != -100
        items = kwargs.get("num_items_in_batch") or answers.sum().clamp(min=1)
        apart = divergence(whole.logits[:, :-1][answers], output.logits[:, :-1][answers]) / items
        terms = output.loss, self.distill * apart, self.full * whole.loss
        self.sums = (
            self.sums.to(output.loss.device) + torch.stack([t.detach() for t in terms]).float()
        )
        output.loss = sum(terms)

    def _whole(self, model: nn.Module, args: tuple, given: dict[str, Any]) -> Any:
        """The forward of the same weights with all tokens, without dropout."""
        context = nullcontext() if self.full else torch.no_grad()
        with attach.resting(model), asleep(model), context:
            return model(*args, **given)

    def read(self, loss: float) -> dict[str, float]:
        """A logged loss in its terms, of the forwards since this was last read; {} if it is one alone."""
        if not (self.distill or self.full):
            return {}
        sums = self.gather(self.sums[None]).cpu().double().sum(0)
        self.sums = torch.zeros(len(TERMS))
        shares = (sums / sums.sum()).tolist()
        return {name: loss * share for name, share in zip(TERMS, shares, strict=True)}


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student), summed over the rows (n, V) of logits; no gradient to the teacher."""
    wanted, found = (log_softmax(logits.float(), -1) for logits in (teacher.detach(), student))
    return kl_div(found, wanted, log_target=True, reduction="sum")


@contextmanager
def asleep(model: nn.Module) -> Iterator[None]:
    """Every module evaluates inside, and is what it was afterwards."""
    awake = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in awake:
            module.training = True
