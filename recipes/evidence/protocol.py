"""What a run of the evidence is: a twin recipe from the shared state, then the same questions.

Every run of a seed sees the same scenes in the same order and answers the same test questions; only what
the run is about differs. All start from one state: see `shrink` in foveate.train.Recipe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foveate.train import Recipe

ROOT = Path(__file__).parents[2]
QUESTIONS = 880  # each of the eleven kinds 80 times
TEST_SEED = 1  # not the scenes that the twin recipe was found with


@dataclass(frozen=True)
class Ask:
    """A method to answer the test questions with.

    "own" stands for what the run was trained with, with its weights; arguments are then those that are
    others for the test alone.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


OWN = Ask("own")


@dataclass(frozen=True)
class Run:
    """A recipe to train, None for the embedded model as it comes, and what is asked of it afterwards.

    before  a recipe that is trained first, the connector alone say, on other scenes; `recipe` goes on
            where it ends. What both shrink is shrunk once, before the first
    """

    name: str
    recipe: Recipe | None
    asks: tuple[Ask, ...] = (OWN,)
    before: Recipe | None = None


@dataclass(frozen=True)
class Page:
    """The runs behind docs/<name>.md; a row's runs are named <row>-seed<seed>.

    lender    a page whose results of the same name count here too, if they are of the very same recipe
    measures  what else is found out about a run once it is trained, from the folder it was trained in, by
              the name it has in the result; None where there is nothing to find
    """

    name: str
    runs: tuple[Run, ...]
    lender: str | None = None
    measures: Mapping[str, Callable[[Run, Path], Any]] = field(default_factory=dict)


def asked(run_: Run) -> dict[str, Any]:
    """What makes a result this run's."""
    card = None if run_.recipe is None else told(run_.recipe)
    asks = [[ask.method, dict(ask.arguments)] for ask in run_.asks]
    first = {} if run_.before is None else {"before": told(run_.before)}
    found = {"recipe": card, **first, "asks": asks, "questions": [QUESTIONS, TEST_SEED]}
    return json.loads(json.dumps(found))


def told(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields but for those that are as always: new ones make no old result another recipe's."""
    plain = Recipe(recipe.name, recipe.model, recipe.data, recipe.trains).as_dict()
    always = plain.keys() - {"name", "model", "data", "trains", "batch", "steps"}
    card = json.loads(json.dumps(recipe.as_dict()))
    return {k: v for k, v in card.items() if k not in always or v != plain[k]}
