"""FocusLLaVA's claims on PatchQA: the rows of docs/focusllava.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from evidence import figures
from evidence.estimates import NOT_RUN, Estimate, NotRun
from evidence.figures import Point
from evidence.guides import SCENES, guides
from evidence.llava_stf import pooled
from evidence.protocol import OWN, SEEDS, Ask, Page, Row, own, twin
from evidence.results import Found
from evidence.samples import LOOKED_AT, samples
from foveate.patchqa.truth import LEAST
from foveate.train import RECIPES

LAYERS, HALF = 6, 3  # of the language model; the paper's layer 16 of 32
LONG = 240  # steps, twice as many
KEEP, KEEPS = 0.5, (0.25, 0.5, 0.75)  # ρ, of the tokens that reach the text-guided sampler
PAPER = 39  # per cent of the visual tokens, with which the paper beats its baseline
ROUTED = {"balance": 0.1}
GUIDED = {"keep": KEEP, "sampled": [0.3, 1.0]}
MAIN = ("baseline", "vision", "text", "both")
# For the test alone, of a model that was trained without compression.
UNTRAINED = {
    "text-guided, for the test alone": ("focusllava", {"only": "text"}),
    "FastV, for the test alone": ("fastv", {}),
}
CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "layer1": ("guided before layer 1", {"layer": 1}),
    "layer2": ("guided before layer 2", {"layer": 2}),
    "layer4": ("guided before layer 4", {"layer": 4}),
    "layer5": ("guided before layer 5", {"layer": 5}),
    "balance0": ("balance term 0", {"balance": 0.0}),
    "balance1": ("balance term 0.01", {"balance": 0.01}),
    "balance30": ("balance term 0.3", {"balance": 0.3}),
    "gate_chosen": ("gate of the chosen scale", {"gate": "chosen"}),
    "no_explore": ("no noise in the choice", {"explore": False}),
    "region8": ("regions of 8 × 8", {"region": 8}),
    "rho25": ("ρ = 0.25 throughout", {"keep": 0.25, "sampled": None}),
    "rho50": ("ρ = 0.5 throughout", {"keep": 0.5, "sampled": None}),
    "rho75": ("ρ = 0.75 throughout", {"keep": 0.75, "sampled": None}),
}
T = TypeVar("T")


def main() -> tuple[Row, ...]:
    """All tokens, each sampler alone, and both."""
    untrained = tuple(
        Ask(method, {**given, "keep": keep, "layer": HALF})
        for method, given in UNTRAINED.values()
        for keep in KEEPS
    )
    routed = twin("focusllava", only="vision", **ROUTED)
    guided = twin("focusllava", only="text", **GUIDED)
    both = twin("focusllava", **GUIDED, **ROUTED)
    prices = tuple(own(price=price) for price in (0.5, 1.0, 2.0))
    less, more = own(keep=0.25), own(keep=0.75)
    return (
        Row("baseline", "all tokens", twin(), SEEDS, untrained),
        Row("vision", "vision-guided alone", routed, SEEDS, prices),
        Row("text", "text-guided alone", guided, SEEDS, (less, more)),
        Row("both", "FocusLLaVA", both, SEEDS, (less, more, own(keep=1.0))),
    )


def rows() -> tuple[Row, ...]:
    """One thing changed, simpler ways, and both samplers elsewhere, on one seed but for pooling."""
    bare, vision, text, both = main()
    scale = {k: twin("focusllava", only="vision", scales=[k]) for k in (2, 4)}
    pool = Row("pool", "average pooling 2 × 2", pooled(steps=120), SEEDS, beside="max2")
    random = twin("random", keep=KEEP, layer=HALF)
    tuned, long = (
        [
            replace(
                row.but(f"{row.name}_{how}", f"{row.called}, {said}", replace(row.recipe, **given)),
                baseline=f"baseline_{how}",
            )
            for row in (bare, vision, both)
        ]
        for how, said, given in (
            ("tuned", "from the trained model", {"shrink": 1.0}),
            ("long", "twice as long", {"steps": LONG}),
        )
    )
    return (
        *(bare, vision, text, both),
        *(both.but(name, called, **given) for name, (called, given) in CHANGED.items()),
        vision.but("max2", "max-pooling 2 × 2", scale[2]),
        replace(vision.but("max4", "max-pooling 4 × 4", scale[4]), beside="max2"),
        pool,
        text.but("random", "random tokens half way", random),
        *(*tuned, *long, *tiles()),
    )


def tiles() -> list[Row]:
    """Four times as many pixels: 144 tokens of the whole, and a map of 24 × 24 with its newlines."""
    name, plain = "tiles_baseline", RECIPES["patchqa_2x"]()
    bare = Row(name, "all tokens, in tiles", plain, beside=name, baseline=name)
    focus = replace(plain, method="focusllava")
    vision = bare.but("tiles_vision", "vision-guided alone, in tiles", focus, only="vision")
    priced = tuple(own(price=price) for price in (0.5, 1.0, 2.0, 4.0))
    return [
        bare,
        bare.but("tiles_both", "FocusLLaVA, in tiles", focus, **GUIDED),
        replace(vision, asks=priced),
        bare.but("tiles_text", "text-guided alone, in tiles", focus, only="text", **GUIDED),
        bare.but("tiles_max2", "max-pooling 2 × 2, in tiles", focus, only="vision", scales=[2]),
    ]


@dataclass(frozen=True)
class Seen:
    """What a row's samplers do: shares of the tokens, scales, and what is looked at."""

    row: Found

    @cached_property
    def shares(self) -> tuple[float, float] | NotRun:
        """Of all tokens, those left in the end and those a decoder layer has, the mean over the layers."""
        whole, K = self.row.baseline.tokens, self.layer
        trained = self.row.ask.method == OWN.method
        entered = self.row.told("samples", "tokens", "language 0") if trained else {}
        found = []
        for seed, answer in self.row.answers.items():
            left = answer["tokens"] / whole
            enter = 1.0 if K else left
            if seed in entered:
                enter = fmean(numbers(entered[seed])) / whole
            found.append((left, (K * enter + (LAYERS - K) * left) / LAYERS))
        return tuple(map(fmean, zip(*found, strict=True))) if found else NOT_RUN

    @property
    def layer(self) -> int:
        """The decoder layer before which tokens go, 0 where all that go do so before the language model."""
        card, ask = self.row.row.recipe, self.row.ask
        method, given = ask.method, ask.arguments
        if method == OWN.method:
            method, given = card.method, {**card.arguments, **given}
        inside = method == "focusllava" and given.get("only") != "vision"
        return given.get("layer", HALF if inside else 0)

    @property
    def left(self) -> float | NotRun:
        """The share of the tokens that is left in the end."""
        return self.shares[0]

    @property
    def layers(self) -> float | NotRun:
        """The share of the tokens that a decoder layer has, the mean over the layers."""
        return self.shares[1]

    def entering(self, how: Callable[[Iterable[int]], T]) -> T | NotRun:
        """Of the tokens that the router leaves of each picture: their mean, the least, the most."""
        told = self.row.told("samples", "tokens", "language 0").values()
        return how([n for text in told for n in numbers(text)]) if told else NOT_RUN

    def scale(self, kind: str, scale: str) -> float | NotRun:
        """Of the regions of a kind, the share at a scale: the mean over the pictures that have such."""
        found = []
        for counts in self.row.told("samples", "regions", kind).values():
            totals = map(sum, zip(*map(numbers, counts.values()), strict=True))
            pairs = zip(numbers(counts[scale]), totals, strict=True)
            found.append(fmean(n / total for n, total in pairs if total))
        return fmean(found) if found else NOT_RUN

    @property
    def fine_on(self) -> tuple[float, float] | NotRun:
        """Of the tokens at scale 1, the share on text and objects; and how much of all patches those are."""
        fine, there = [0, 0], [0, 0]
        for kinds in self.row.told("samples", "patches").values():
            for kind, counts in kinds.items():
                fine[kind == "background"] += sum(numbers(counts["1"]))
                there[kind == "background"] += sum(sum(numbers(text)) for text in counts.values())
        return (fine[0] / sum(fine), there[0] / sum(there)) if sum(fine) else NOT_RUN

    def look(self, layer: int, name: str) -> Estimate | NotRun:
        """The mean of a measure of `guides` in a layer."""
        return self.row.measured("guides", "layers", str(layer), name)

    def follows(self, layer: int) -> Estimate | NotRun:
        """How much more a patch is looked at when it is asked about than when another thing is."""
        own, other = (
            self.row.sample("guides", "layers", str(layer), name) for name in ("area", "other")
        )
        return (own - other).estimate()


def numbers(text: str) -> list[int]:
    """Counts, a picture each."""
    return [int(n) for n in text.split()]


def tells(page: Page, rows: Mapping[str, Found]) -> dict[str, Any]:
    """The tables' rows, with ρ and without, and what samplers do."""
    bare = rows["baseline"]
    at = {k: {} if k == KEEP else {"keep": k} for k in (*KEEPS, 1.0)}
    by_keep = {
        rows[name].called: [rows[name].asked(**given) for given in at.values()]
        for name in ("text", "both")
    }
    for called, (method, given) in UNTRAINED.items():
        by_keep[called] = [bare.asked(method, **given, keep=k, layer=HALF) for k in at]
    return {
        "main": [rows[name] for name in MAIN],
        "by_keep": by_keep,
        "others": [row for name, row in rows.items() if name not in MAIN],
        "seen": Seen,
        "half": HALF,
        "mean": fmean,
        "least": min,
        "most": max,
        "covers": LEAST,
        "pictures": LOOKED_AT,
        "scenes": SCENES,
        "paper": PAPER,
    }


def draws(rows: Mapping[str, Found], path: Path) -> Path:
    """A line for what has a ρ, a point for what has none."""
    by_keep = tells(PAGE, rows)["by_keep"]
    some = {name: by_keep[name] for name in by_keep if "text-guided, for" not in name}
    some["max-pooling"] = [rows["max2"], rows["max4"]]
    found = {
        name: [Point(100 * Seen(row).layers, row.accuracy) for row in line if row.answers]
        for name, line in some.items()
    }
    return figures.lines(
        found,
        rows["baseline"].accuracy,
        path,
        tokens="tokens of a decoder layer, the mean over the layers, % of all",
        below=[rows[name].called for name in ("both", "text")],
    )


PAGE = Page(
    "focusllava",
    rows(),
    lender="meteor",
    measures={"samples": samples, "guides": guides},
    tells=tells,
    draws=draws,
)
