"""What FocusLLaVA's results say in numbers: shares of the tokens, scales, and what is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

import focusllava_tiles as tiles
from focusllava import ASKED_AT, ELSEWHERE, KEEP, LAYERS, PAGE, ROWS, SIDE, UNTRAINED, cut
from found import Results, right, seeds_of
from intervals import Estimate, Right, against, estimate
from protocol import OWN, Ask

CARDS = {run.name.rpartition("-seed")[0]: run.recipe for run in PAGE.runs}


class Point(NamedTuple):
    """A way to answer with fewer tokens.

    row     what was trained; "baseline" where the method is there for the test alone
    line    what it is a case of, and keep which: ρ, None without a text-guided sampler
    left    the share of the tokens that are left in the end
    layers  the share of the tokens that a decoder layer has, the mean over the layers
    far     from the baseline, question by question
    """

    row: str
    line: str
    keep: float | None
    left: float
    layers: float
    accuracy: Estimate
    far: Estimate


def points(baseline: Results) -> list[Point]:
    """Every row, every other ρ it was asked with, and what was there for the test alone."""
    found = []
    for row in ROWS:
        if row != "baseline" and row not in ELSEWHERE:
            by_keep = ASKED_AT.get(row, {_keep(row): OWN})
            found += [_point(row, row, keep, ask, baseline) for keep, ask in by_keep.items()]
    for line, by_keep in UNTRAINED.items():
        found += [_point("baseline", line, keep, ask, baseline) for keep, ask in by_keep.items()]
    return [point for point in found if point is not None]


def _keep(row: str) -> float | None:
    method, arguments = ROWS[row]
    inside = method == "random" or (method == "focusllava" and arguments.get("only") != "vision")
    return arguments.get("keep", KEEP) if inside else None


def _point(row: str, line: str, keep: float | None, ask: Ask, baseline: Results) -> Point | None:
    results = seeds_of(PAGE, row)
    answered = rights(results, ask)
    far = estimate(against(answered, right(baseline)))
    if far is None:
        return None
    both = [shares(row, results[seed], ask) for seed in answered]
    left, layers = (fmean(share) for share in zip(*both, strict=True))
    return Point(row, line, keep, left, layers, estimate(answered), far)


def told(result: dict[str, Any], ask: Ask) -> dict[str, Any] | None:
    """How a run answers when it is asked so; None where it was not."""
    asks, wanted = result["asked"]["asks"], [ask.method, dict(ask.arguments)]
    return result["answers"][asks.index(wanted)] if wanted in asks else None


def rights(results: Results, ask: Ask) -> Right:
    """By seed, a 1 or 0 for every question, of the seeds that were asked so."""
    answers = {s: told(result, ask) for s, result in results.items()}
    return {s: [int(c) for c in a["right"]] for s, a in answers.items() if a is not None}


def shares(row: str, result: dict[str, Any], ask: Ask = OWN) -> tuple[float, float]:
    """Of all tokens, those left in the end, and those a decoder layer has, the mean over the layers."""
    card, before = CARDS[row], whole(row)
    own = ask.method == OWN.method
    method, arguments = (
        (card.method, {**card.arguments, **ask.arguments}) if own else (ask.method, ask.arguments)
    )
    layer, end = cut(method, arguments), told(result, ask)["tokens"] / before
    sampled = result.get("samples", {}).get("tokens", {}).get("language 0") if own else None
    enter = fmean(map(int, sampled.split())) / before if sampled else (1.0 if layer else end)
    return end, (layer * enter + (LAYERS - layer) * end) / LAYERS


def whole(row: str) -> float:
    """The tokens of a picture without compression, at the resolution of this row."""
    bare = seeds_of(PAGE, tiles.BASELINE if row in tiles.ROWS else "baseline")
    return next((r["answers"][0]["tokens"] for r in bare.values()), float(SIDE**2))


def spread(row: str) -> tuple[float, int, int] | None:
    """Mean, least and most of the tokens that the vision-guided sampler leaves of a picture."""
    told_by_seed = [r["samples"]["tokens"] for r in seeds_of(PAGE, row).values() if "samples" in r]
    counts = [int(n) for t in told_by_seed for n in t.get("language 0", "").split()]
    return (fmean(counts), min(counts), max(counts)) if counts else None


def scaled(row: str, what: str, kind: str, scale: str) -> Estimate | None:
    """Of the regions, or the patches, of a kind: the share at a scale, over the pictures that have such."""
    found: dict[int, list[float]] = {}
    for seed, result in seeds_of(PAGE, row).items():
        if what in result.get("samples", {}):
            counts = {s: _numbers(n) for s, n in result["samples"][what][kind].items()}
            totals = [sum(each) for each in zip(*counts.values(), strict=True)]
            found[seed] = [n / all_ for n, all_ in zip(counts[scale], totals, strict=True) if all_]
    return estimate(found)


def busy_area(row: str, level: float = 0.0) -> Estimate | None:
    """The share of pairs in which the router expects more of the busy region, over a level."""
    told = {s: r["samples"].get("area") for s, r in seeds_of(PAGE, row).items() if "samples" in r}
    return _over(estimate({s: _numbers(t) for s, t in told.items() if t}), level)


def fine_on(row: str) -> tuple[float, float] | None:
    """Of the tokens at scale 1, the share on text and objects, and how much of all patches those are."""
    fine, there = [0, 0], [0, 0]
    for result in seeds_of(PAGE, row).values():
        for kind, counts in result.get("samples", {}).get("patches", {}).items():
            sums = {scale: sum(_numbers(n)) for scale, n in counts.items()}
            fine[kind == "background"] += sums["1"]
            there[kind == "background"] += sum(sums.values())
    return (fine[0] / sum(fine), there[0] / sum(there)) if sum(fine) else None


def look(row: str, layer: int, name: str, less: str | None = None) -> Estimate | None:
    """What a row has of a measure in a layer, or how far it is above another one's, scene by scene."""
    own = _looks(row, layer, name)
    return estimate(own if less is None else against(own, _looks(row, layer, less)))


def kept_at(row: str) -> float | None:
    """The share of the tokens that stay in a row's measures."""
    return next((r["guides"]["keep"] for r in seeds_of(PAGE, row).values() if "guides" in r), None)


def looked_into(row: str) -> tuple[int, ...]:
    """The layers in which a row was looked into."""
    results = seeds_of(PAGE, row).values()
    layers = next((r["guides"]["layers"] for r in results if "guides" in r), {})
    return tuple(map(int, layers))


def _looks(row: str, layer: int, name: str) -> Right:
    found = {}
    for seed, result in seeds_of(PAGE, row).items():
        layers: Mapping[str, Any] = result.get("guides", {}).get("layers", {})
        if str(layer) in layers:
            found[seed] = _numbers(layers[str(layer)][name])
    return found


def _numbers(text: str) -> list[float]:
    return [float(value) for value in text.split()]


def _over(found: Estimate | None, level: float) -> Estimate | None:
    return None if found is None else found._replace(mean=found.mean - level)


def macs(row: str, baseline: Results) -> float | None:
    """The language model's multiply-accumulates for a question, in a ratio to the baseline's."""
    own = [r["answers"][0]["language_macs"] for r in seeds_of(PAGE, row).values()]
    bare = [r["answers"][0]["language_macs"] for r in baseline.values()]
    return fmean(own) / fmean(bare) if own else None
