"""What a run of the evidence is: a recipe from the shared state, then the same questions for all.

Every run of a seed sees the same scenes in the same order and answers the same test questions; only what the
run is about differs. All start from one state: see `shrink` in foveate.train.Recipe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foveate.train import RECIPES, Recipe

ROOT = Path(__file__).parents[1]
QUESTIONS = 880  # each of the eleven kinds 80 times
TEST_SEED = 1  # not the scenes that the twin recipe was found with
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Ask:
    """A method to answer the test questions with.

    "own" stands for what the run was trained with, with its weights; arguments are then those that are
    others for the test alone.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


OWN = Ask("own")


def own(**arguments: Any) -> Ask:
    """What a run was trained with, but for these arguments."""
    return Ask(OWN.method, arguments)


def twin(method: str = "identity", steps: int = 120, **arguments: Any) -> Recipe:
    """The recipe on PatchQA with a method."""
    return replace(RECIPES["patchqa"](), steps=steps, method=method, arguments=arguments)


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
class Row:
    """A line of a table: one recipe, on one seed or more.

    name      that of its files, <name>-seed<seed>.json
    called    that in tables
    recipe    on the first seed; the others change the seed alone
    asks      what else it is asked with than its own method, and `once` on the first seed alone
    beside    the row that it differs from in one thing
    baseline  the row of all tokens that it is measured against
    """

    name: str
    called: str
    recipe: Recipe | None
    seeds: tuple[int, ...] = (0,)
    asks: tuple[Ask, ...] = ()
    once: tuple[Ask, ...] = ()
    before: Recipe | None = None
    beside: str = "baseline"
    baseline: str = "baseline"

    def but(self, name: str, called: str, recipe: Recipe | None = None, **arguments: Any) -> Row:
        """A row of one seed that differs from this one in its method's arguments, or in its recipe."""
        card = recipe or self.recipe
        card = replace(card, arguments={**card.arguments, **arguments})
        return Row(name, called, card, beside=self.name, baseline=self.baseline)

    def runs(self) -> dict[int, Run]:
        """Its runs by seed."""
        if self.recipe is None:
            return {0: Run(self.name, None, (OWN, *self.asks))}
        return {seed: self._run(seed) for seed in self.seeds}

    def _run(self, seed: int) -> Run:
        once = self.once if seed == self.seeds[0] else ()
        recipe, before = (card and replace(card, seed=seed) for card in (self.recipe, self.before))
        return Run(f"{self.name}-seed{seed}", recipe, (OWN, *self.asks, *once), before)


@dataclass(frozen=True)
class Page:
    """The rows behind docs/<name>.md, and what its template is given besides.

    lender     a page whose results of the same name count here too, if they are of the very same recipe
    measures   what else is found out about a run once it is trained, from the page, the run and the folder
               it was trained in, by the name it has in the result; None where there is nothing to find
    tells      what else the template names, from the rows' results by name
    draws      writes the page's figure to a path, from the rows' results by name
    """

    name: str
    rows: tuple[Row, ...]
    lender: str | None = None
    measures: Mapping[str, Callable[[Page, Run, Path], Any]] = field(default_factory=dict)
    tells: Callable[[Page, Mapping[str, Any]], Mapping[str, Any]] = lambda page, rows: {}
    draws: Callable[[Mapping[str, Any], Path], Any] = lambda rows, path: None
    questions: int = QUESTIONS
    root: Path = ROOT

    def runs(self) -> Iterator[Run]:
        """All runs: one seed of every row, then the others."""
        by_row = [row.runs() for row in self.rows]
        for seed in sorted({seed for runs in by_row for seed in runs}):
            yield from (runs[seed] for runs in by_row if seed in runs)

    def file(self, name: str) -> Path:
        """Where a result of its own is, or what else it has counted once."""
        return self.root / "results" / self.name / f"{name}.json"

    def out(self, run: Run) -> Path:
        """Where a run's model and checkpoints are."""
        return self.root / "out" / "evidence" / self.name / run.name


def asked(page: Page, run: Run) -> dict[str, Any]:
    """What makes a result this run's."""
    card = None if run.recipe is None else told(run.recipe)
    asks = [[ask.method, dict(ask.arguments)] for ask in run.asks]
    first = {} if run.before is None else {"before": told(run.before)}
    found = {"recipe": card, **first, "asks": asks, "questions": [page.questions, TEST_SEED]}
    return json.loads(json.dumps(found))


def told(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields but for those that are as always: new ones make no old result another recipe's."""
    plain = Recipe(recipe.name, recipe.model, recipe.data, recipe.trains).as_dict()
    always = plain.keys() - {"name", "model", "data", "trains", "batch", "steps"}
    card = json.loads(json.dumps(recipe.as_dict()))
    return {k: v for k, v in card.items() if k not in always or v != plain[k]}
