"""What is asked for an audit beside the answers: how near a method is to the full model, word by word.

Letters: B questions of a batch, T tokens of an answer, V the vocabulary, P patches of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.chat.said import MARK, Turn
from foveate.evaluate.plans import Plan
from foveate.evaluate.prompts import Ask, ask
from foveate.evaluate.replies import Reply, answers, replies
from foveate.evaluate.steps import steps
from foveate.evaluate.work import Work
from foveate.hosts import attach
from foveate.methods import FastV

SIDE = 12  # cells of a map
LOOKED = 64  # questions of the map of where the full model looks


@dataclass(frozen=True)
class Near:
    """How near a method is to the full model on one question.

    first    KL divergence of the first token from the full model's, in nats
    whole    the mean of all tokens of the full model's answer, which the method is made to say
    sure     the method's likelihood of the first token it would say itself
    doubt    entropy of that token, in nats
    """

    first: float
    whole: float
    sure: float
    doubt: float


class Recital:
    """A logits processor that notes what is likely at every token; of another, it says those tokens."""

    def __init__(self, of: Recital | None = None):
        self.of = of
        self.likely: list[Tensor] = []  # (B, V) each

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V); with another to follow, the one token alone that it said."""
        likely = scores.float().log_softmax(-1)
        self.likely.append(likely)
        if self.of is None:
            return scores
        said = self.of.likely[len(self.likely) - 1].argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, said, 0.0)


def near(full: Recital, own: Recital, row: int, made: int, doubt: float) -> Near:
    """How near a row of a recital, which took so many tokens, is to the full model's."""
    pairs = zip(full.likely, own.likely, strict=False)
    far = [_divergence(a[row], b[row]) for a, b in pairs][: max(made, 1)]
    return Near(far[0], sum(far) / len(far), float(own.likely[0][row].max().exp()), doubt)


def _divergence(full: Tensor, own: Tensor) -> float:
    """KL(full ‖ own) of log-likelihoods (V,), in nats."""
    return float(torch.where(full > -torch.inf, full.exp() * (full - own), 0.0).sum())


class Map:
    """A mean over images, cell by cell of one square; of images in views, of the first one."""

    def __init__(self) -> None:
        self.sum, self.count = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))

    def add(self, value: Tensor, grid: Tensor) -> None:
        """One image: value (P,) of its patches, grid (P, 3) view, row and column."""
        here = (grid[:, 0] == 0) & (grid[:, 1] >= 0)
        place = grid[here, 1:].double().cpu()
        cell = ((place + 0.5) / (place.amax(0) + 1) * SIDE).long().numpy()
        np.add.at(self.sum, tuple(cell.T), value[here].double().cpu().numpy())
        np.add.at(self.count, tuple(cell.T), 1)

    def mean(self) -> list[list[float]] | None:
        """(SIDE, SIDE); None without an image."""
        if not self.count.any():
            return None
        return (self.sum / self.count.clip(1)).round(6).tolist()


def kept(replied: Reply) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each image the tokens on each patch, (P,), a token shared by all it carries; and the grid."""
    for owner, grid in replied.carried:
        owner, grid = owner[owner > -2], grid[owner > -2]
        size = torch.bincount(owner[owner >= 0], minlength=1).double()
        yield torch.where(owner >= 0, 1 / size[owner.clamp(min=0)], 0.0), grid


def recited(work: Work, plans: Sequence[Plan]) -> list[tuple[list[Near], Map]]:
    """How near each of these plans is to the first, the full model, on every question; and what it kept."""
    found: list[tuple[list[Near], Map]] = [([], Map()) for _ in plans]
    how = {"max_new_tokens": work.max_new_tokens, "do_sample": False, "num_beams": 1}
    model, processor = work.loaded.model, work.loaded.processor
    for some in _batches(work):
        asks, full, made = [ask(e, work.metric) for e in some], None, None
        for (nears, places), one in zip(found, plans, strict=True):
            own = Recital(full)
            with acting(work, one, some):
                said = answers(model, processor, asks, {**how, "logits_processor": [own]})
            full, made = full or own, made or [reply.made for reply in said]
            nears += [near(full, own, n, made[n], reply.doubt) for n, reply in enumerate(said)]
            for value, grid in (image for reply in said for image in kept(reply)):
                places.add(value, grid)
    return found


def acting(work: Work, one: Plan, some: Sequence[Any]) -> Any:
    """What a plan puts on the model while these questions are asked."""
    method = one.acting(some)
    return (
        nullcontext() if method is None else attach.compressed(work.loaded.model, method, **one.how)
    )


def again(work: Work, plans: Sequence[Plan], first: Sequence[str]) -> list[list[str]] | str:
    """The answers to a second turn on the same pictures, of each plan; or why none can be asked.

    first: the full model's answers, which stand between the turns. What is asked then is the next question
    about the same picture, or the same one.
    """
    asks = list(map(_turns, _seconds(work), first))
    found: list[list[str]] = []
    try:
        for one in plans:
            said: list[str] = []
            for start in range(0, len(asks), work.batch_size):
                batch = slice(start, start + work.batch_size)
                with acting(work, one, work.examples[batch]):
                    own = replies(
                        work.loaded.model, work.loaded.processor, asks[batch], work.max_new_tokens
                    )
                said += [reply.text for reply in own]
            found.append(said)
    except (ValueError, TypeError) as error:
        return " ".join(str(error).split())
    return found


def _seconds(work: Work) -> list[tuple[Ask, str]]:
    """Each question as it is asked, and what is asked behind its answer."""
    examples = list(work.examples)
    pictures = [[*map(str, one.images)] for one in examples]
    follows = zip(examples, pictures, [*examples[1:], None], [*pictures[1:], None], strict=True)
    return [
        (ask(one, work.metric), (after if shown == then else one).question)
        for one, shown, after, then in follows
    ]


def _turns(asked: tuple[Ask, str], answer: str) -> Ask:
    (images, told), then = asked
    turns = [Turn("user", MARK * len(images) + told)] if isinstance(told, str) else [*told]
    return images, [*turns, Turn("assistant", answer or "."), Turn("user", then)]


def looks(work: Work) -> dict[str, Any]:
    """Where the prompt's last token looks in the middle of the full model: its map, or why there is none."""
    model = work.loaded.model
    layer = max(model.config.get_text_config().num_hidden_layers // 2, 1)
    probe, found = FastV(1.0, layer=layer), Map()
    some = work.examples[:LOOKED]
    try:
        with attach.compressed(model, probe):
            for start in range(0, len(some), work.batch_size):
                batch = some[start : start + work.batch_size]
                asks = [ask(e, work.metric) for e in batch]
                (step,) = steps(model, work.loaded.processor, asks)
                if step.grid is None:
                    raise ValueError("nothing says how the patches of an image lie")
                for score, grid in zip(step.scores, step.grid, strict=True):
                    found.add(score.nan_to_num(), grid)
    except (ValueError, NotImplementedError, TypeError) as error:
        return {"why": " ".join(str(error).split())}
    return {"layer": layer, "questions": len(some), "map": found.mean()}


def _batches(work: Work) -> Iterator[Sequence[Any]]:
    for start in range(0, len(work.examples), work.batch_size):
        yield work.examples[start : start + work.batch_size]
