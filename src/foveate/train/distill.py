"""Self-distillation: the compressed answer learns from the same weights' answer with all tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from foveate.hosts import attach, traits
from foveate.hosts.flow import KEY

TERMS = ("loss", "distillation", "full_loss", "looking")
EARLY = 2  # decoder layers whose attention says little about what is looked for


@dataclass(frozen=True)
class Weights:
    """What is added to the loss of a compressed answer, and how much it weighs; see `Recipe`."""

    distill: float = 0.0
    full: float = 0.0
    attend: float = 0.0


class Distilled:
    """Adds to the loss of every training forward, inside `with`, what all tokens have to say.

    distill  KL(all tokens ‖ compressed) over the answers' tokens; the teacher has no gradient
    full     the loss of the same answers with all tokens, so that the whole picture stays known
    attend   KL(where the answers look, all tokens given ‖ where the compressor says one looks)

    All is added within the forward, so that whoever shares gradients over ranks sees it, and scaled as the
    model's own loss is: gradient accumulation changes nothing. gather: as in `Apart`. progress: of training,
    0 to 1; attend falls to 0 with it, as the scorer then knows better than attention what helps an answer.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Weights,
        gather: Callable[[Tensor], Tensor],
        progress: Callable[[], float],
    ):
        self.model, self.weights, self.gather, self.progress = model, weights, gather, progress
        self.sums = torch.zeros(len(TERMS))
        self.handles: list[Any] = []
        self.looked: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> Distilled:
        if self.weights.attend:
            self.handles = [_looks(self.model).register_forward_hook(self._look)]
        if self.weights != Weights():
            self.handles.append(self.model.register_forward_hook(self._add, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        while self.handles:
            self.handles.pop().remove()

    def _look(self, module: nn.Module, args: tuple, shares: Tensor) -> None:
        """Note the shares (I, N) that the compressor gives, and which tokens are there."""
        self.looked.append((shares, args[0].valid))

    def _add(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        looked, self.looked = self.looked, []
        if not (model.training and torch.is_grad_enabled()):
            return
        given = {name: value for name, value in kwargs.items() if name != KEY}
        whole = self._whole(model, args, given)
        answers = kwargs["labels"][:, 1:] != -100
        items = kwargs.get("num_items_in_batch") or answers.sum().clamp(min=1)
        said = nn.functional.pad(answers, (0, 1))
        if (shifted := kwargs.get("shift_labels")) is not None:  # by `head_on_answers`
            said = shifted != -100
        apart = divergence(whole.logits[said], output.logits[said]) / items
        terms = [output.loss, self.weights.distill * apart, self.weights.full * whole.loss]
        if looked:
            visual = traits.is_visual(traits.base_of(model), kwargs["input_ids"])
            seen = attended(whole.attentions, answers, visual)
            away = astray(*looked[-1], seen) * answers.sum() / items
            terms.append(self.weights.attend * (1 - self.progress()) * away)
        told = torch.stack([term.detach().float() for term in terms])
        self.sums = self.sums.to(told) + nn.functional.pad(told, (0, len(TERMS) - len(told)))
        output.loss = sum(terms)

    def _whole(self, model: nn.Module, args: tuple, given: dict[str, Any]) -> Any:
        """The forward of the same weights with all tokens, without dropout."""
        context = nullcontext() if self.weights.full else torch.no_grad()
        with attach.resting(model), asleep(model), context:
            return model(*args, **given, output_attentions=bool(self.weights.attend))

    def read(self, loss: float) -> dict[str, float]:
        """A logged loss in its terms, of the forwards since this was last read; {} if it is one alone."""
        if self.weights == Weights():
            return {}
        sums = self.gather(self.sums[None]).cpu().double().sum(0)
        self.sums = torch.zeros(len(TERMS))
        shares = (sums / sums.sum()).tolist()
        return {name: loss * share for name, share in zip(TERMS, shares, strict=True)}


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student), summed over the rows (n, V) of logits; no gradient to the teacher."""
    wanted, found = (log_softmax(logits.float(), -1) for logits in (teacher.detach(), student))
    return kl_div(found, wanted, log_target=True, reduction="sum")


def attended(attentions: Any, answers: Tensor, visual: Tensor) -> Tensor:
    """What the answers' rows look at of each visual column, in the order of the prompts; no gradient.

    attentions: (B, heads, S, S) of each decoder layer; answers (B, S − 1) rows that predict one; visual
    (B, S). Mean over heads, layers and rows. Raises ValueError where the model does not tell.
    """
    if not attentions or attentions[0] is None:
        raise ValueError("attend reads whole attention maps: want attention='eager'")
    some = [
        layer.detach().float().mean(1) for layer in attentions[min(EARLY, len(attentions) - 1) :]
    ]
    looks = torch.stack(some).mean(0)[:, :-1]
    return (looks * answers[..., None]).sum(1)[visual]


def astray(shares: Tensor, valid: Tensor, seen: Tensor) -> Tensor:
    """KL(seen ‖ shares), the mean over images. shares, valid (I, N); seen (number of valid ones,)."""
    if len(seen) != int(valid.sum()):
        raise ValueError(
            f"attend: {len(seen)} placeholders for {int(valid.sum())} patches; rows that are closed by "
            "newlines are not supported"
        )
    wanted = torch.zeros_like(shares).masked_scatter(valid, seen.to(shares))
    tiny = torch.finfo(shares.dtype).tiny
    wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=tiny)
    return (wanted * (wanted.clamp(min=1e-9).log() - shares.clamp(min=1e-9).log())).sum(1).mean()


def _looks(model: nn.Module) -> nn.Module:
    """What the attached compressor looks with. Raises ValueError if it has nothing of the kind."""
    parts = traits.base_of(model).visual_compressor.every()
    found = [part.looks for part in parts if part.looks is not None]
    if len(found) != 1:
        raise ValueError(
            f"attend teaches where to look: {' + '.join(map(str, parts))} learns nothing of that"
        )
    return found[0]


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
