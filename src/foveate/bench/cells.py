"""What a benchmark measures: models with their prompts, and the cells of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor, nn

from foveate.bench.count import Paper, counts, text_columns
from foveate.core.compressor import Compressor
from foveate.core.ops import Keep
from foveate.core.spec import Skipped, Spec, crossed
from foveate.registry.methods import factory

BARE = "identity"
IDLE = ("stride", "fastv")  # one before and one inside the language model, that do next to nothing


class Cell(NamedTuple):
    """One row of the table. method BARE is the bare model; idle cells keep all, and only prefill.

    keep    None where the method's arguments say it
    spec    the method with these arguments; None for a method by its name
    visual  about how many tokens an image takes; None for as many as the model's own
    """

    method: str
    keep: Keep | None
    batch: int
    idle: bool = False
    spec: Spec | None = None
    visual: int | None = None

    def __str__(self) -> str:
        keep = "" if self.keep is None else f" {self.keep}"
        size = "" if self.visual is None else f" of {self.visual}"
        return f"{self.method}{keep}{size} × {self.batch}" + (" idle" if self.idle else "")

    def compressor(self, model: Any = None) -> Compressor | None:
        """The method at this budget, with the sizes of a model. Raises ValueError for another's budget."""
        if self.method == BARE:
            return None
        return (self.spec or Spec(self.method, factory(self.method))).build(self.keep, model)


@dataclass(frozen=True)
class Subject:
    """What is measured: a model with prompts for it, or, where it cannot run, a paper to count on.

    inputs   batch size → that many prompts of one length
    showing  about how many tokens an image takes → the same with such images; None for one size alone
    """

    name: str
    model: nn.Module | None = None
    inputs: Callable[[int], Mapping[str, Tensor]] | None = None
    paper: Paper | None = None
    showing: Callable[[int], Subject] | None = None

    def at(self, visual: int | None) -> Subject:
        """The subject whose images take about so many tokens."""
        return self if visual is None else self.showing(visual)

    @property
    def whole(self) -> nn.Module:
        """The model, or its skeleton."""
        return self.paper.whole if self.model is None else self.model

    def counts(self, method: Compressor | None) -> dict[str, Any]:
        """Of one prompt. Raises ValueError, NotImplementedError where that cannot be told."""
        if self.model is None:
            return self.paper.counts(method)
        return counts(self.model, self.inputs(1), method)

    def about(self) -> dict[str, Any]:
        """The model and its prompt in numbers."""
        inputs = self.paper.prompts[0] if self.model is None else self.inputs(1)
        text = text_columns(self.whole, inputs)
        parameters = list(self.whole.parameters())
        return {
            "model": self.name,
            "dtype": str(parameters[0].dtype).removeprefix("torch."),
            "parameters": sum(p.numel() for p in parameters),
            "prompt": {"visual": inputs["input_ids"].shape[1] - text, "text": text},
        }


def plan(
    methods: Iterable[Spec],
    keeps: Sequence[Keep],
    batches: Sequence[int],
    timed: bool = True,
    visuals: Sequence[int | None] = (None,),
) -> tuple[list[Cell], list[Skipped]]:
    """For each image and batch size the bare model, every method at every budget it has, and the idle cells.

    Idle are those of IDLE that are among the methods, at the first size alone.
    """
    methods = list(methods)
    idle = {spec.slug for spec in methods} & {*IDLE}
    chosen, skipped = crossed((spec for spec in methods if spec.slug != BARE), keeps)
    found = []
    for visual, batch in product(visuals, batches):
        found.append(Cell(BARE, 1.0, batch, visual=visual))
        found += [Cell(str(spec), keep, batch, False, spec, visual) for spec, keep in chosen]
        if timed and (visual, batch) == (visuals[0], batches[0]):
            idles = [slug for slug in IDLE if slug in idle]
            found += [Cell(slug, 1.0, batch, idle=True, visual=visual) for slug in idles]
    return found, skipped
