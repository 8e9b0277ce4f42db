"""Numbers and tables that more than one page has."""

from __future__ import annotations

from collections.abc import Mapping

from found import Results, groups, right, seeds_of, to
from intervals import estimate, shown, table
from protocol import Page


def tokens(results: Results) -> float:
    """Visual tokens that the language model reads, of a row that is there."""
    return next(iter(results.values()))["answers"][0]["tokens"]


def cost(results: Results, baseline: Results) -> float:
    """A row's forwards in training, in a ratio to the baseline's."""
    one, bare = (next(iter(r.values())) for r in (results, baseline))
    stages = [one[stage] for stage in ("before", "training") if stage in one]
    spent = sum(stage["steps"] * stage["cost"]["macs"] for stage in stages)
    return spent / (bare["training"]["steps"] * bare["training"]["cost"]["macs"])


def group_table(page: Page, rows: Mapping[str, str]) -> str:
    """Accuracies by group of questions. rows: what each is called."""
    cells = {
        row: [estimate(right(seeds_of(page, row), group=group)) for group in groups()]
        for row in rows
    }
    return _by_group("accuracy", {rows[row]: map(shown, found) for row, found in cells.items()})


def distance_table(page: Page, rows: Mapping[str, str], baseline: Results) -> str:
    """How far accuracies are from the baseline's, by group of questions."""
    cells = {row: [to(page, baseline, row, group) for group in groups()] for row in rows}
    told = {rows[row]: [shown(f, "+") for f in found] for row, found in cells.items()}
    return _by_group("to baseline", told)


def _by_group(what: str, cells: Mapping[str, object]) -> str:
    head = [f"{group} ({len(which)})" for group, which in groups().items()]
    return table([what, *head], [[name, *found] for name, found in cells.items()])
