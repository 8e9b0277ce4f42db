"""The tables of LLaVA-Meteor's page, and the lines of its picture."""

from __future__ import annotations

from collections.abc import Iterable

from costs import connectors
from found import Results, right, seeds_of, to
from intervals import Estimate, against, estimate, shown, table
from meteor import ALONE, KEEP, MAIN, METEOR, PAGE, RANDOM_K, ROWS, SIDE, SMALLER, beside, keep_of
from meteor_words import NAMES
from tables import cost, tokens

# By method, the rows that were trained at a budget each.
TRAINED = {
    first: [row for row in ROWS if row == first or row.startswith(f"{first}_k")]
    for first in ("pool", "mlp_selection", METEOR)
}
ASKED_AT = {KEEP: {}, **{keep: {"keep": keep} for keep in SMALLER}}  # what is other at the test


def lines() -> dict[str, dict[int, tuple[float, Estimate]]]:
    """By method, tokens and accuracy at each share of the tokens, in per cent."""
    found: dict[str, dict[int, tuple[float, Estimate]]] = {}
    for first, rows in TRAINED.items():
        for row in rows:
            if results := seeds_of(PAGE, row):
                point = tokens(results), estimate(right(results))
                found.setdefault(NAMES[first], {})[share(keep_of(row))] = point
    if results := seeds_of(PAGE, RANDOM_K):
        found[NAMES[RANDOM_K]] = {
            share(keep): (float(keep), estimate(right(results, changed=change)))
            for keep, change in ASKED_AT.items()
        }
    return found


def share(keep: int) -> int:
    """In per cent of all tokens."""
    return round(100 * keep / SIDE**2)


def main_table(baseline: Results) -> str:
    """The main rows: size, cost, accuracy, and how far they are from two of them."""
    counted, rows = connectors(PAGE), []
    for row in MAIN:
        results, size = seeds_of(PAGE, row), counted[row]
        plain = row in ("baseline", "mlp_selection")
        rows.append(
            [
                NAMES[row],
                f"{tokens(results):.0f}" if results else "–",
                f"{size['parameters']:,}",
                f"{size['macs'] / 1e6:.1f}",
                f"{cost(results, baseline):.2f}" if results else "–",
                shown(estimate(right(results))),
                "" if row == "baseline" else shown(to(PAGE, baseline, row), "+"),
                "" if plain else shown(to(PAGE, seeds_of(PAGE, "mlp_selection"), row), "+"),
            ]
        )
    head = "connector,tokens,parameters,MMAC,cost,accuracy,to baseline,to projector + selection"
    return table(head.split(","), rows)


def budget_table(baseline: Results) -> str:
    """Every method at every budget, trained at it or asked with it."""
    rows = []
    for first, trained in TRAINED.items():
        for row in trained:
            results = seeds_of(PAGE, row)
            rows.append([NAMES[first], str(keep_of(row)), "trained", *_beside(results, baseline)])
    for row, how in [
        ("mlp_selection", "for the test alone"),
        (METEOR, "for the test alone"),
        (RANDOM_K, "trained"),
    ]:
        for keep, change in ASKED_AT.items():
            if change or row == RANDOM_K:
                cells = _beside(seeds_of(PAGE, row), baseline, change)
                rows.append([NAMES[row], str(keep), how, *cells])
    return table(["row", "tokens", "how", "accuracy", "to baseline"], rows)


def _beside(results: Results, baseline: Results, change: dict[str, int] | None = None) -> list[str]:
    """Accuracy, and how far it is from the baseline's."""
    own = right(results, changed=change)
    return [shown(estimate(own)), shown(estimate(against(own, right(baseline))), "+")]


def alone_table() -> str:
    """Trained weights asked with both experts, and with one."""
    rows = []
    for row in ("mlp_selection", METEOR):
        results = seeds_of(PAGE, row)
        both = right(results)
        cells = [shown(estimate(both))]
        for change in ALONE.values():
            one = right(results, changed=change)
            cells += [shown(estimate(one)), shown(estimate(against(one, both)), "+")]
        rows.append([NAMES[row], *cells])
    head = [cell for name in ALONE for cell in (f"{name} alone", "to both")]
    return table(["for the test alone", "both", *head], rows)


def ablation_table(baseline: Results, wanted: Iterable[str]) -> str:
    """Rows beside the baseline and the row that each differs from in one thing."""
    counted, rows = connectors(PAGE), []
    for row in wanted:
        results, other = seeds_of(PAGE, row), beside(row)
        rows.append(
            [
                NAMES[row],
                f"{tokens(results):.0f}" if results else "–",
                f"{counted[row]['parameters']:,}",
                f"{counted[row]['macs'] / 1e6:.1f}",
                f"{cost(results, baseline):.2f}" if results else "–",
                shown(estimate(right(results))),
                shown(to(PAGE, baseline, row), "+"),
                f"{shown(to(PAGE, seeds_of(PAGE, other), row), '+')} ({NAMES[other]})",
            ]
        )
    head = "row,tokens,parameters,MMAC,cost,accuracy,to baseline,to its neighbour"
    return table(head.split(","), rows)
