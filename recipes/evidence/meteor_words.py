"""What the results say of LLaVA-Meteor's claims: sentences that follow from the numbers."""

from __future__ import annotations

from collections.abc import Iterable

from costs import connectors
from found import Results, groups, right, seeds_of, to
from intervals import Estimate, against, estimate, seen_on
from meteor import (
    ALL,
    ALONE,
    BEFORE_STEPS,
    BUDGETS,
    COLD,
    EXPERTS,
    METEOR,
    PAGE,
    RANDOM_K,
    SCANS,
    STAGED,
    beside,
    keep_of,
    selects,
)
from meteor_finds import asks, finds
from tables import cost

NAMES = {
    "baseline": "all tokens, the projector",
    "pool": "average pooling",
    "mlp_selection": "projector + selection",
    "fusion_no_text": "fusion without text + selection",
    METEOR: "LLaVA-Meteor",
    "visual": "visual expert alone",
    "native": "native expert alone",
    "native_words": "native expert alone, word by word",
    "words": "both experts, the native one word by word",
    "product": "product of the experts",
    "max": "maximum of the experts",
    "union": "union of the experts",
    "random": "projector + random tokens",
    "mlp_selection_k16": "projector + selection, K = 16",
    "meteor_k16": "LLaVA-Meteor, K = 16",
    "mlp_selection_k7": "projector + selection, K = 7",
    "meteor_k7": "LLaVA-Meteor, K = 7",
    "scan_add": "neighbours added (N steps)",
    "scan_window": "neighbours walked through (9N steps)",
    "forward_only": "forward alone",
    "mamba1": "Mamba-1",
    "depth2": "two blocks",
    "wide": "a block twice as wide, 64 states",
    "mlp_selection_long": "projector + selection, four times the steps",
    "meteor_long": "LLaVA-Meteor, four times the steps",
    "pool_k3": "average pooling, 16 tokens",
    "pool_k4": "average pooling, 9 tokens",
    ALL: "fusion, all tokens",
    RANDOM_K: "K drawn in training",
    COLD: "begun cold",
    "meteor_two_stage": "two stages",
}
STANDS = {1: "stands above", 0: "is not told apart from", -1: "stands below"}
BY_BUDGET = {keep_of(row): row for row in (METEOR, *BUDGETS) if row.startswith(METEOR)}


def in_short(baseline: Results) -> str:
    """The claims and whether they hold, in words that follow from the numbers; "" without any."""
    words = [comparable(baseline), paying(baseline), fused(), told_the_question(), simpler()]
    words += [price(baseline), experts(), alone(), finds(), asks(), scans(), drawn(), begun()]
    words = [f"- {line}" for line in words if line]
    return "\n".join(["**In short.**\n", *words, ""]) if words else ""


def comparable(baseline: Results) -> str:
    """Whether 75 to 95 % fewer tokens are comparable."""
    found = {keep: to(PAGE, baseline, row) for keep, row in BY_BUDGET.items()}
    words = [f"at {keep} of 144 tokens it {_to(far, 'it')}" for keep, far in found.items() if far]
    return (
        f"Beside the full-token baseline, LLaVA-Meteor: {'; '.join(words)}. The paper reports comparable or "
        "better results on 12 benchmarks with 75 to 95 % fewer."
        if words
        else ""
    )


def paying(baseline: Results) -> str:
    """Which groups of questions fewer tokens cost, as far as intervals tell."""
    words = []
    for keep, row in BY_BUDGET.items():
        found = {g: d for g in groups() if (d := to(PAGE, baseline, row, g)) is not None}
        low = [f"{g} ({d.text()})" for g, d in found.items() if d.side < 0]
        even = [g for g, d in found.items() if d.side == 0]
        high = [f"{g} ({d.text()})" for g, d in found.items() if d.side > 0]
        told = {"below it": low, "above it": high, "not told apart": even}
        parts = [f"{where} {', '.join(names)}" for where, names in told.items() if names]
        words += [f"at {keep} tokens {', '.join(parts)}"] if parts else []
    return f"By group of questions, beside the baseline: {'; '.join(words)}." if words else ""


def fused() -> str:
    """What the fusion brings over the projector, the selection being the same."""
    found = to(PAGE, seeds_of(PAGE, "mlp_selection"), METEOR)
    if found is None:
        return ""
    whole = to(PAGE, seeds_of(PAGE, "baseline"), ALL)
    more = f" With all tokens, on one seed, fusion {_to(whole, 'the projector')}." if whole else ""
    return (
        f"{seen_on(found)}he fusion in the projector's place, with the same selection behind it, "
        f"{_to(found, 'the projector')}.{more}"
    )


def told_the_question() -> str:
    """What it brings that the fusion reads the question."""
    found = to(PAGE, seeds_of(PAGE, "fusion_no_text"), METEOR)
    if found is None:
        return ""
    return f"{seen_on(found)}he fusion that reads the question {_to(found, 'one that does not')}."


def simpler() -> str:
    """Beside what has no experts: pooling, and tokens drawn at random."""
    words = []
    if (found := to(PAGE, seeds_of(PAGE, "pool"), METEOR)) is not None:
        words.append(f"LLaVA-Meteor {_to(found, 'average pooling')}")
    if (found := to(PAGE, seeds_of(PAGE, "random"), "mlp_selection")) is not None:
        words.append(f"{NAMES['mlp_selection']} {_to(found, NAMES['random'])}, on one seed")
    return f"At the same tokens, retrained: {'; '.join(words)}." if words else ""


def price(baseline: Results) -> str:
    """What an image's way to the language model costs, and the whole forward."""
    if not (results := seeds_of(PAGE, METEOR)):
        return ""
    own, old = (connectors(PAGE)[row]["macs"] / 1e6 for row in (METEOR, "baseline"))
    return (
        f"Fusion and selection take {own:.0f} MMAC an image where the projector takes {old:.0f}; the forward "
        f"of the whole model, a small one, costs {cost(results, baseline):.2f} of the baseline's."
    )


def experts() -> str:
    """Trained with another selection."""
    chosen = [row for row in EXPERTS if selects(row)]
    return _changed("Trained with the experts put together in another way", chosen)


def scans() -> str:
    """One thing of the fusion changed."""
    return _changed("One thing of the fusion changed", SCANS)


def alone() -> str:
    """The trained model asked with one expert alone."""
    results, words = seeds_of(PAGE, METEOR), []
    for name, change in ALONE.items():
        if found := estimate(against(right(results, changed=change), right(results))):
            words.append(f"the {name} expert alone {found.text()}")
    return f"For the test alone, LLaVA-Meteor with {' and '.join(words)}." if words else ""


def drawn() -> str:
    """One training for all budgets, beside one for each."""
    results, words = seeds_of(PAGE, RANDOM_K), []
    for keep, row in BY_BUDGET.items() if results else ():
        change = {} if keep == keep_of(RANDOM_K) else {"keep": keep}
        there = right(results, changed=change)
        if found := estimate(against(there, right(seeds_of(PAGE, row)))):
            words.append(f"at {keep} tokens it {_to(found, 'that')}")
    head = "On one seed, one training with K drawn beside one for each K"
    return f"{head}: {'; '.join(words)}." if words else ""


def begun() -> str:
    """Another beginning."""
    begin = (
        f"Another beginning ({BEFORE_STEPS} steps for the connector alone, or without a warm start)"
    )
    return _changed(begin, (*STAGED, COLD))


def _changed(what: str, rows: Iterable[str]) -> str:
    words = []
    for row in rows:
        if (found := to(PAGE, seeds_of(PAGE, beside(row)), row)) is not None:
            words.append(f"{NAMES[row]} {_to(found, NAMES[beside(row)])}")
    return f"{what}, on one seed: {'; '.join(words)}." if words else ""


def _to(found: Estimate, other: str) -> str:
    """How a row stands to another, as far as intervals tell."""
    return f"{STANDS[found.side]} {other} ({found.text()})"
