"""What runs cost, counted rather than timed: once, and kept beside the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from found import file
from protocol import Page

from foveate import METHODS, sized
from foveate.bench import CONFIGS, training_cost
from foveate.bench.count import Paper, counts
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
    return training_cost(
        subject, sized(METHODS[recipe.method], model, **recipe.arguments)
    ).as_dict()


def counted_7b(page: Page, schedules: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What LLaVolta's schedules cost in training at 7B, counted on the config of LLaVA-1.5-7B."""

    def count() -> dict[str, Any]:
        large = Subject("llava-1.5-7b", paper=Paper(CONFIGS["llava-1.5-7b"]))
        return {n: training_cost(large, METHODS["llavolta"](n)).as_dict() for n in schedules}

    return once(page, "cost-llava-1.5-7b", schedules, count)


def connectors(page: Page) -> dict[str, dict[str, int]]:
    """What stands between tower and language model in each row's method, on the embedded model.

    parameters are those that an image passes, macs the multiply-accumulates of one image.
    """
    cards = {r.name.rsplit("-seed", 1)[0]: r.recipe for r in page.runs if r.recipe is not None}

    def count() -> dict[str, Any]:
        return {row: connector(card.method, card.arguments) for row, card in cards.items()}

    return once(page, "cost-connectors", cards, count)


def connector(slug: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Parameters and MACs of one image between the embedded model's tower and its language model."""
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
    page: Page, name: str, rows: Mapping[str, Any], count: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Costs by row that were counted before, or are now because a row is new."""
    path = file(page.name, name)
    costs = json.loads(path.read_text(encoding="utf-8"))["costs"] if path.exists() else {}
    if rows.keys() - costs.keys():
        costs = count()
        write(path, dumps({"costs": costs, "circumstances": record(0)}))
    return costs


def prompt(name: str = "embedded", task: str = "patchqa") -> tuple[Any, Any]:
    """A model that comes with foveate, and one prompt for it."""
    model, processor = load(name=name)
    example = examples(task, 1, seed=0)[0]
    return model, encode(processor, [(example.images, example.question)])[0]
