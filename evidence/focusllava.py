"""FocusLLaVA's claims on PatchQA: the rows of docs/focusllava.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from evidence import figures
from evidence.estimates import NOT_RUN, Estimate, NotRun, Sample
from evidence.figures import Point
from evidence.guides import SCENES, guides
from evidence.llava_stf import POOL
from evidence.protocol import OWN, SEEDS, Ask, Page, Row, own
from evidence.results import Found, questions
from evidence.samples import LOOKED_AT, samples
from foveate.patchqa.truth import LEAST
from foveate.train import RECIPES, Recipe

LAYERS, HALF = 6, 3  # of the language model; the paper's layer 16 of 32
STEPS, LONGER = 120, 2  # and how many times as many the long rows take
KEEP, KEEPS = 0.5, (0.25, 0.5, 0.75)  # ρ, of the tokens that reach the text-guided sampler
PAPER = 39  # per cent of the visual tokens, with which the paper beats its baseline
RATE, BALANCE = 1e-3, 0.1  # of the router
GUIDED = {"keep": KEEP, "sampled": [0.3, 1.0]}
BOTH = {**GUIDED, "balance": BALANCE}
MAIN = ("baseline", "vision", "text", "both")
CALLED = dict(
    zip(MAIN, ("all tokens", "vision-guided alone", "text-guided alone", "FocusLLaVA"), strict=True)
)
# For the test alone, of a model that was trained without compression.
UNTRAINED = {
    "text-guided, for the test alone": ("focusllava", {"only": "text"}),
    "FastV, for the test alone": ("fastv", {}),
}
T = TypeVar("T")


def card(method: str, plain: Recipe | None = None, **arguments: Any) -> Recipe:
    """The twin's recipe, or another, with a method."""
    plain = plain or replace(RECIPES["patchqa"](), steps=STEPS)
    return replace(plain, method=method, arguments=arguments)


def focus(**arguments: Any) -> Recipe:
    """FocusLLaVA, or its vision-guided half, with a router that chooses among scales."""
    made = card("focusllava", **arguments)
    return replace(made, trains={**made.trains, "compressor": RATE})


def rows() -> tuple[Row, ...]:
    """Both samplers and each alone; where guidance stands, the router, ρ, and simpler ways."""
    return (*_main(), *_changed(), *_simple(), *_elsewhere(), *_tiles())


def _main() -> list[Row]:
    untrained = tuple(
        Ask(method, {**given, "keep": keep, "layer": HALF})
        for method, given in UNTRAINED.values()
        for keep in KEEPS
    )
    recipes = {
        "baseline": (card("identity"), untrained),
        "vision": (
            focus(only="vision", balance=BALANCE),
            tuple(own(price=price) for price in (0.5, 1.0, 2.0)),
        ),
        "text": (
            card("focusllava", only="text", **GUIDED),
            tuple(own(keep=keep) for keep in KEEPS if keep != KEEP),
        ),
        "both": (focus(**BOTH), tuple(own(keep=keep) for keep in (0.25, 0.75, 1.0))),
    }
    return [Row(name, CALLED[name], card, SEEDS, asks) for name, (card, asks) in recipes.items()]


def _changed() -> list[Row]:
    """One thing of FocusLLaVA changed, on one seed."""
    changes = {
        **{f"layer{k}": (f"guided before layer {k}", {"layer": k}) for k in (1, 2, 4, 5)},
        "balance0": ("balance term 0", {"balance": 0.0}),
        "balance1": ("balance term 0.01", {"balance": 0.01}),
        "balance30": ("balance term 0.3", {"balance": 0.3}),
        "gate_chosen": ("gate of the chosen scale", {"gate": "chosen"}),
        "no_explore": ("no noise in the choice", {"explore": False}),
        "region8": ("regions of 8 × 8", {"region": 8}),
        **{
            f"rho{round(100 * k)}": (f"ρ = {k:g} throughout", {"keep": k, "sampled": None})
            for k in KEEPS
        },
    }
    return [
        Row(name, called, focus(**{**BOTH, **given}), beside="both")
        for name, (called, given) in changes.items()
    ]


def _simple() -> list[Row]:
    """One scale everywhere, and tokens that nothing guides."""
    pooled = replace(card("pool", **POOL), positions="renumbered")
    random = card("random", keep=KEEP, layer=HALF)
    scale = {k: card("focusllava", only="vision", scales=[k]) for k in (2, 4)}
    return [
        Row("max2", "max-pooling 2 × 2", scale[2], beside="vision"),
        Row("max4", "max-pooling 4 × 4", scale[4], beside="max2"),
        Row("pool", "average pooling 2 × 2", pooled, SEEDS, beside="max2"),
        Row("random", "random tokens half way", random, beside="text"),
    ]


def _elsewhere() -> list[Row]:
    """From the embedded model as it comes, which knows the task, and for longer."""
    how = {
        "tuned": ("from the trained model", {"shrink": 1.0}),
        "long": ("twice as long", {"steps": STEPS * LONGER}),
    }
    main = {row.name: row.recipe for row in _main() if row.name != "text"}
    return [
        Row(
            f"{name}_{suffix}",
            f"{CALLED[name]}, {said}",
            replace(recipe, **given),
            beside=name,
            baseline=f"baseline_{suffix}",
        )
        for suffix, (said, given) in how.items()
        for name, recipe in main.items()
    ]


def _tiles() -> list[Row]:
    """Four times as many pixels: 144 tokens of the whole, and a map of 24 × 24 with its newlines."""
    plain = RECIPES["patchqa_2x"]()
    methods = {
        "baseline": ("all tokens", "identity", {}),
        "both": (CALLED["both"], "focusllava", GUIDED),
        "vision": (CALLED["vision"], "focusllava", {"only": "vision"}),
        "text": (CALLED["text"], "focusllava", {"only": "text", **GUIDED}),
        "max2": ("max-pooling 2 × 2", "focusllava", {"only": "vision", "scales": [2]}),
    }
    priced = tuple(own(price=price) for price in (0.5, 1.0, 2.0, 4.0))
    return [
        Row(
            f"tiles_{name}",
            f"{called}, in tiles",
            card(method, plain, **given),
            asks=priced if name == "vision" else (),
            beside="tiles_baseline",
            baseline="tiles_baseline",
        )
        for name, (called, method, given) in methods.items()
    ]


@dataclass(frozen=True)
class Seen:
    """What a row's samplers do: shares of the tokens, scales, and what is looked at."""

    row: Found

    @cached_property
    def shares(self) -> tuple[float, float] | NotRun:
        """Of all tokens, those left in the end and those a decoder layer has, the mean over the layers."""
        whole, asked = self.row.baseline.tokens, self.row.ask
        both = []
        for seed, answer in self.row.answers.items():
            end = answer["tokens"] / whole
            sampled = self._told(seed, "samples", "tokens", "language 0")
            entered = sampled.split() if sampled and asked.method == OWN.method else []
            enter = fmean(map(int, entered)) / whole if entered else (1.0 if self.layer else end)
            both.append((end, (self.layer * enter + (LAYERS - self.layer) * end) / LAYERS))
        if not both:
            return NOT_RUN
        left, layers = (fmean(share) for share in zip(*both, strict=True))
        return left, layers

    @property
    def layer(self) -> int:
        """The decoder layer before which tokens go, 0 where all that go do so before the language model."""
        card, ask = self.row.row.recipe, self.row.ask
        mine = ask.method == OWN.method
        method = card.method if mine else ask.method
        given = {**card.arguments, **ask.arguments} if mine else ask.arguments
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
        told = [self._told(seed, "samples", "tokens", "language 0") for seed in self.row.results]
        counts = [int(n) for text in told for n in (text or "").split()]
        return how(counts) if counts else NOT_RUN

    def scale(self, kind: str, scale: str) -> float | NotRun:
        """Of the regions of a kind, the share at a scale: the mean over the pictures that have such."""
        shares = []
        for seed in self.row.results:
            counts = self._told(seed, "samples", "regions", kind)
            if counts:
                each = {s: [int(n) for n in text.split()] for s, text in counts.items()}
                totals = [sum(some) for some in zip(*each.values(), strict=True)]
                some = [n / all_ for n, all_ in zip(each[scale], totals, strict=True) if all_]
                shares.append(fmean(some))
        return fmean(shares) if shares else NOT_RUN

    @property
    def busy(self) -> Estimate | NotRun:
        """The share of pairs in which the router expects more tokens of the busy region."""
        scenes = [q.scene for q in questions(self.row.row.recipe.data, self.row.page.questions)]
        return self.row.sample(self._both_kinds(scenes), "samples", "area").estimate()

    def _both_kinds(self, scenes: list[str]) -> list[str]:
        """The scenes that have busy regions and bare ones."""
        for seed in self.row.results:
            told = self._told(seed, "samples", "regions") or {}
            sums = {
                kind: [
                    sum(map(int, n)) for n in zip(*(t.split() for t in of.values()), strict=True)
                ]
                for kind, of in told.items()
            }
            if sums:
                each = zip(sums["text"], sums["object"], sums["background"], strict=True)
                which = [i for i, (text, thing, bare) in enumerate(each) if text + thing and bare]
                return [scenes[i] for i in which]
        return []

    @property
    def fine_on(self) -> tuple[float, float] | NotRun:
        """Of the tokens at scale 1, the share on text and objects; and how much of all patches those are."""
        fine, there = [0, 0], [0, 0]
        for seed in self.row.results:
            for kind, counts in (self._told(seed, "samples", "patches") or {}).items():
                sums = {scale: sum(map(int, text.split())) for scale, text in counts.items()}
                fine[kind == "background"] += sums["1"]
                there[kind == "background"] += sum(sums.values())
        return (fine[0] / sum(fine), there[0] / sum(there)) if sum(fine) else NOT_RUN

    def looks(self, layer: int, name: str) -> Sample:
        """What a row has of a measure of `guides` in a layer, a number a scene."""
        return self.row.sample(range(SCENES), "guides", "layers", str(layer), name)

    def look(self, layer: int, name: str) -> Estimate | NotRun:
        """The mean of such a measure."""
        return self.looks(layer, name).estimate()

    def follows(self, layer: int) -> Estimate | NotRun:
        """How much more a patch is looked at when it is asked about than when another thing is."""
        return (self.looks(layer, "area") - self.looks(layer, "other")).estimate()

    def _told(self, seed: int, *keys: str) -> Any:
        told: Any = self.row.results[seed]
        for key in keys:
            told = (told or {}).get(key)
        return told


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
        below=[CALLED["both"], CALLED["text"]],
    )


PAGE = Page(
    "focusllava",
    rows(),
    lender="meteor",
    measures={"samples": samples, "guides": guides},
    tells=tells,
    draws=draws,
)
