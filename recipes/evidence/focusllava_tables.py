"""The tables of FocusLLaVA's page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from focusllava import ABLATIONS, BY_LAYER, PAGE, PRICED, at_price, beside, routes
from focusllava_found import (
    Point,
    busy_area,
    fine_on,
    kept_at,
    look,
    looked_into,
    macs,
    rights,
    scaled,
    shares,
    spread,
    told,
)
from focusllava_names import LOOKED, NAMES
from focusllava_samples import KINDS
from found import Results, right, seeds_of, to
from intervals import Estimate, against, estimate, shown, table
from protocol import OWN


def main_table(rows: Sequence[str], baseline: Results) -> str:
    """Rows, the baseline first: tokens, both shares, the language model's work, accuracy, its distance."""
    lines = []
    for row in rows:
        results, work = seeds_of(PAGE, row), macs(row, baseline)
        lines.append(
            [
                NAMES[row],
                *_left(row, results),
                "–" if work is None else f"{work:.2f}",
                shown(estimate(right(results))),
                "" if row == rows[0] else shown(to(PAGE, baseline, row), "+"),
            ]
        )
    head = "row,tokens,left,per layer,MACs,accuracy,to baseline"
    return table(head.split(","), lines)


def _left(row: str, results: Results) -> list[str]:
    """Tokens in the end, and both shares in per cent, the mean over seeds."""
    if not results:
        return ["–"] * 3
    tokens = [r["answers"][0]["tokens"] for r in results.values()]
    left, layers = zip(*(shares(row, r) for r in results.values()), strict=True)
    n = len(results)
    return [f"{sum(tokens) / n:.0f}", f"{100 * sum(left) / n:.0f}", f"{100 * sum(layers) / n:.0f}"]


def points_table(points: Iterable[Point]) -> str:
    """Every way to answer with fewer tokens, those of one line together."""
    lines = [
        [
            NAMES[point.line],
            "" if point.keep is None else f"{point.keep:g}",
            f"{100 * point.left:.0f}",
            f"{100 * point.layers:.0f}",
            shown(point.accuracy),
            shown(point.far, "+"),
        ]
        for point in points
    ]
    return table(["row", "ρ", "left", "per layer", "accuracy", "to baseline"], lines)


def guidance_table(baseline: Results) -> str:
    """The text-guided sampler by layer."""
    lines = []
    for row, layer in sorted(BY_LAYER.items(), key=lambda pair: pair[1]):
        results, work = seeds_of(PAGE, row), macs(row, baseline)
        one = {s: r for s, r in results.items() if s == 0}
        lines.append(
            [
                str(layer),
                *_left(row, results),
                "–" if work is None else f"{work:.2f}",
                shown(estimate(right(one))),
                shown(estimate(against(right(one), right(baseline))), "+"),
            ]
        )
    head = ["before layer", "tokens", "left", "per layer", "MACs", "accuracy", "to baseline"]
    return table(head, lines)


def ablation_table(baseline: Results) -> str:
    """Rows beside the baseline and the row that each differs from in one thing."""
    lines = []
    for row in ABLATIONS:
        results, other = seeds_of(PAGE, row), beside(row)
        near = shown(to(PAGE, seeds_of(PAGE, other), row), "+")
        lines.append(
            [
                NAMES[row],
                *_left(row, results),
                shown(estimate(right(results))),
                shown(to(PAGE, baseline, row), "+"),
                f"{near} ({NAMES[other]})",
            ]
        )
    head = "row,tokens,left,per layer,accuracy,to baseline,to its neighbour"
    return table(head.split(","), lines)


def prices_table(row: str, baseline: Results) -> str:
    """A trained router at prices of its tokens."""
    lines, results = [], seeds_of(PAGE, row)
    for price in (0.0, *PRICED[row]):
        ask = at_price(price) if price else OWN
        answered = rights(results, ask)
        tokens = [told(results[seed], ask)["tokens"] for seed in answered]
        left = [shares(row, results[seed], ask)[0] for seed in answered]
        lines.append(
            [
                f"{price:g}",
                *(["–", "–"] if not left else [f"{fmean(tokens):.0f}", f"{100 * fmean(left):.0f}"]),
                shown(estimate(answered)),
                shown(estimate(against(answered, right(baseline))), "+"),
            ]
        )
    return table(["price", "tokens", "left", "accuracy", "to baseline"], lines)


def scales_table(rows: Iterable[str]) -> str:
    """Which scale the regions of each kind get, of the rows whose router chooses."""
    lines = []
    for row in (row for row in rows if routes(row)):
        cells = [
            " · ".join(_plain(scaled(row, "regions", kind, scale)) for scale in ("1", "2", "4"))
            for kind in KINDS
        ]
        found, fine = spread(row), fine_on(row)
        lines.append(
            [
                NAMES[row],
                "–" if found is None else f"{found[0]:.0f} ({found[1]} to {found[2]})",
                *cells,
                shown(busy_area(row)),
                "–" if fine is None else f"{100 * fine[0]:.0f} of {100 * fine[1]:.0f}",
            ]
        )
    head = ["row", "tokens", *KINDS, "area", "fine on text and objects"]
    return table(head, lines)


def looks_table(rows: Iterable[str]) -> str:
    """What the question looks at, by row and layer."""
    lines = []
    for row in rows:
        for layer in looked_into(row):
            cells = [shown(look(row, layer, name)) for name in LOOKED]
            lines.append([NAMES[row], str(layer), f"{kept_at(row):g}", *cells])
    return table(["row", "layer", "ρ", *LOOKED.values()], lines)


def _plain(found: Estimate | None) -> str:
    return "–" if found is None else f"{100 * found.mean:.0f}"
