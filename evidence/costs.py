"""What runs cost, counted rather than timed: once, and kept beside the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from evidence.protocol import Page
from foveate import METHODS, sized
from foveate.bench import training_cost
from foveate.bench.count import counts
from foveate.bench.table import Subject
from foveate.core.compressor import Tower
from foveate.embedded import load
from foveate.evaluate import encode
from foveate.keeping.provenance import dumps, record, write
from foveate.tasks import examples
from foveate.train import Recipe
from foveate.train.parts import parts_of


def schedule_cost(recipe: Recipe) -> dict[str, Any]:
    """What a recipe's method costs in training, counted on the recipe's own model with one prompt."""
    model, inputs = prompt(recipe.model, recipe.data)
    subject = Subject(recipe.model, model, lambda batch: inputs)
    method = sized(METHODS[recipe.method], model, **recipe.arguments)
    return training_cost(subject, method).as_dict()


def connectors(page: Page) -> dict[str, dict[str, int]]:
    """By row, what its method has between the tower and the language model; see `connector`."""
    cards = {row.name: row.recipe for row in page.rows if row.recipe is not None}

    def count() -> dict[str, Any]:
        return {name: connector(card.method, card.arguments) for name, card in cards.items()}

    return once(page, "cost-connectors", cards, count)


def connector(slug: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Parameters that an image of the embedded model passes before its language model, and their MACs."""
    model, inputs = prompt()
    method = sized(METHODS[slug], model, **arguments)
    macs = counts(model, inputs, method)["macs"]
    own = sum(p.numel() for p in method.parameters())
    stands_in = any(part.site.tower == Tower.projector for part in method.parts())
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    old = sum(sizes[name] for name, part in parts_of(model).items() if part == "projector")
    return {
        "parameters": own + (0 if stands_in else old),
        "macs": macs["connector"] + macs["scorer"],
    }


def once(
    page: Page, name: str, rows: Collection[str], count: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Costs by row that were counted before, or are now because a row is new."""
    path = page.file(name)
    costs = json.loads(path.read_text(encoding="utf-8"))["costs"] if path.exists() else {}
    if set(rows) - costs.keys():
        costs = count()
        write(path, dumps({"costs": costs, "circumstances": record(0)}))
    return costs


def prompt(name: str = "embedded", task: str = "patchqa") -> tuple[Any, Any]:
    """A model that comes with foveate, and one prompt for it."""
    model, processor = load(name=name)
    example = examples(task, 1, seed=0)[0]
    return model, encode(processor, [(example.images, example.question)])[0]
