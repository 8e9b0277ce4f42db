"""What the results say of FocusLLaVA's claims: sentences that follow from the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import focusllava_tiles as tiles
from focusllava import ASKED_AT, FIXED, FOCUS, MAIN, PAGE, ROUTER, SIDE, SIMPLE, UNTRAINED, beside
from focusllava_found import Point, busy_area, points, rights, shares, spread
from focusllava_looks import guidance, lookers, scale
from focusllava_names import NAMES, PAPER, STANDS, stands
from found import Results, groups, seeds_of, to
from intervals import Estimate, against, estimate

TOLD = (*MAIN, *UNTRAINED, *SIMPLE)  # of the lines of points, those that are told in words
COUNTS = {
    "left": "the tokens left in the end",
    "layers": "the tokens of a decoder layer, the mean over the layers",
}


def in_short(baseline: Results) -> str:
    """The claims and whether they hold, in words that follow from the numbers; "" without any."""
    found = points(baseline)
    words = [size(), *(meets(found, count) for count in COUNTS), paying(baseline)]
    words += [trained(baseline), both(), scale(), lookers(), guidance(baseline)]
    words += [routers()]
    words += [_changed("ρ the same throughout training instead of drawn, on one seed", FIXED)]
    words += [_changed("Simpler, retrained", SIMPLE), tiled()]
    words = [f"- {line}" for line in words if line]
    return "\n".join(["**In short.**\n", *words, ""]) if words else ""


def size() -> str:
    """How many tokens the two samplers leave."""
    words = []
    for row in ("vision", FOCUS):
        results, first = seeds_of(PAGE, row), spread(row)
        if first is not None:
            counts = zip(*(shares(row, result) for result in results.values()), strict=True)
            left, layers = (100 * fmean(share) for share in counts)
            words.append(
                f"{NAMES[row]} takes {first[0]:.0f} into the language model ({first[1]} to {first[2]} by "
                f"picture), which is {left:.0f} % left in the end and {layers:.0f} % in the mean over the "
                "decoder layers"
            )
    return f"Of {SIDE**2} visual tokens, {'; '.join(words)}." if words else ""


def meets(found: Sequence[Point], count: str) -> str:
    """Where no more than the paper's share of the tokens meets the baseline, by one way to count."""
    few = [p for p in found if p.line in TOLD and round(100 * getattr(p, count)) <= PAPER]
    few.sort(key=lambda point: -point.far.mean)
    words = []
    for side, stand in STANDS.items():
        names = [_said(point, count) for point in few if point.far.side == side]
        words += [f"{stand} the baseline: {', '.join(names)}"] if names else []
    if not words:
        return ""
    none = "" if any(point.far.side >= 0 for point in few) else "none meets the baseline; "
    return (
        f"At most {PAPER} % of the tokens, with which the paper beats its baseline, counted by "
        f"{COUNTS[count]}: {none}{'; '.join(words)}."
    )


def _said(point: Point, count: str) -> str:
    keep = "" if point.keep is None else f", ρ = {point.keep:g}"
    return f"{NAMES[point.line]}{keep} ({100 * getattr(point, count):.0f} %, {point.far.text()})"


def paying(baseline: Results) -> str:
    """Which groups of questions fewer tokens cost, as far as intervals tell."""
    words = []
    for row in MAIN:
        found = {g: d for g in groups() if (d := to(PAGE, baseline, row, g)) is not None}
        low = [f"{g} ({d.text()})" for g, d in found.items() if d.side < 0]
        high = [f"{g} ({d.text()})" for g, d in found.items() if d.side > 0]
        even = [g for g, d in found.items() if d.side == 0]
        told = {"below it": low, "above it": high, "not told apart": even}
        parts = [f"{where} {', '.join(names)}" for where, names in told.items() if names]
        words += [f"{NAMES[row]} {', '.join(parts)}"] if parts and row != "baseline" else []
    return f"By group of questions, beside the baseline: {'; '.join(words)}." if words else ""


def trained(baseline: Results) -> str:
    """What training with the text-guided sampler brings over the same one for the test alone."""
    own, words = seeds_of(PAGE, "text"), []
    for keep, ask in UNTRAINED["text_untrained"].items():
        gain = estimate(against(rights(own, ASKED_AT["text"][keep]), rights(baseline, ask)))
        words += [f"{gain.text()} at ρ = {keep:g}"] if gain is not None else []
    head = "Trained with the text-guided sampler, over the same sampler for the test alone"
    return f"{head}: {', '.join(words)}." if words else ""


def both() -> str:
    """What the two samplers together stand for beside one alone."""
    words = [
        f"{stands(found, NAMES[row])}, which has {_layers(row):.0f} %"
        for row in ("vision", "text")
        if (found := to(PAGE, seeds_of(PAGE, row), FOCUS)) is not None
    ]
    head = (
        f"{NAMES[FOCUS]}, with {_layers(FOCUS):.0f} % of the tokens over the layers, "
        if words
        else ""
    )
    return f"{head}{'; it '.join(words)}." if words else ""


def _layers(row: str) -> float:
    """In per cent, the share of the tokens that a decoder layer has."""
    return 100 * fmean(shares(row, result)[1] for result in seeds_of(PAGE, row).values())


def routers() -> str:
    """What becomes of the router when one thing of it or of its training is changed."""
    words = []
    for row in ROUTER:
        found, first, area = to(PAGE, seeds_of(PAGE, FOCUS), row), spread(row), busy_area(row)
        if found is not None and first is not None and area is not None:
            words.append(
                f"{NAMES[row]} takes {first[0]:.0f} tokens into the language model, expects more of the busy "
                f"region in {area.text('')} % of pairs, and {stands(found, NAMES[FOCUS])}"
            )
    head = "One thing of the router or its training changed, on one seed"
    return f"{head}: {'; '.join(words)}." if words else ""


def tiled() -> str:
    """At four times as many pixels."""
    whole = seeds_of(PAGE, tiles.BASELINE)
    words = []
    for row in tiles.ROWS:
        found = None if row == tiles.BASELINE else to(PAGE, whole, row)
        if found is not None:
            left, layers = shares(row, next(iter(seeds_of(PAGE, row).values())))
            entering = spread(row)
            router = "" if entering is None else f", {entering[0]:.0f} tokens of its router"
            words.append(
                f"{NAMES[row]} ({100 * left:.0f} % left, {100 * layers:.0f} % over the layers{router}) "
                f"{stands(found, 'the baseline')}"
            )
    return f"In tiles, four times as many pixels, one seed: {'; '.join(words)}." if words else ""


def _changed(what: str, rows: Iterable[str]) -> str:
    words = []
    for row in rows:
        found: Estimate | None = to(PAGE, seeds_of(PAGE, beside(row)), row)
        if found is not None:
            words.append(f"{NAMES[row]} {stands(found, NAMES[beside(row)])}")
    return f"{what}: {'; '.join(words)}." if words else ""
