"""LLaVA-Meteor's claims on PatchQA: the rows of docs/meteor.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evidence import costs, figures
from evidence.estimates import NOT_RUN, Estimate, NotRun, Sample
from evidence.figures import Point
from evidence.finds import ASKED, finds
from evidence.llava_stf import POOL
from evidence.protocol import SEEDS, Page, Row, own
from evidence.results import Found, Question, questions
from foveate.patchqa.truth import LEAST
from foveate.train import RECIPES, Recipe

STEPS, LONGER = 120, 4  # and how many times as many the long rows take
BEFORE_STEPS = 60  # of a first stage that trains the connector alone
KEEP, SMALLER = 36, (16, 7)  # of 144: a quarter, 11 and 5 %
HIDDEN = 128  # of the embedded projector, as which the fusion begins
# One narrow block: the published shape has more parameters than all of this small model's decoder.
BLOCK = {"hidden": HIDDEN, "depth": 1, "expand": 1, "states": 16}
# The trained weights with another budget, or with one expert alone, for the test alone.
OTHER_BUDGETS = tuple(own(keep=keep) for keep in SMALLER)
ALONE = (own(balance=1.0), own(balance=0.0))
MAIN = ("baseline", "pool", "mlp_selection", "fusion_no_text", "meteor")
SELECTION, METEOR, WORDS = "projector + selection", "LLaVA-Meteor", "the native one word by word"


def card(method: str = "identity", warm: bool = False, **arguments: Any) -> Recipe:
    """The twin's recipe with a method; warm: its connector begins as the projector."""
    plain = replace(RECIPES["patchqa"](), steps=STEPS)
    return replace(plain, method=method, arguments=arguments, warm_start=warm)


def pooled(stride: int) -> Recipe:
    """Average pooling of windows, positions counted anew."""
    return replace(card("pool", **{**POOL, "stride": stride}), positions="renumbered")


def selected(keep: int = KEEP) -> Recipe:
    """Selection behind the projector."""
    return card("meteor", only="selection", keep=keep)


def fused(**arguments: Any) -> Recipe:
    """Fusion in the projector's place, and selection behind it."""
    return card("meteor", warm=True, **{"keep": KEEP, **BLOCK, **arguments})


def rows() -> tuple[Row, ...]:
    """A quarter of the tokens on all seeds; budgets, experts, scans and beginnings on one."""
    once = {"seeds": SEEDS, "once": (*OTHER_BUDGETS, *ALONE)}
    near = {"beside": "meteor"}
    main = (
        Row("baseline", "all tokens, the projector", card(), SEEDS),
        Row("pool", "average pooling", pooled(2), SEEDS, beside="mlp_selection"),
        Row("mlp_selection", SELECTION, selected(), **once),
        Row(
            "fusion_no_text",
            "fusion without text + selection",
            fused(text=False),
            beside="mlp_selection",
            **once,
        ),
        Row("meteor", METEOR, fused(), beside="mlp_selection", **once),
    )
    experts = {
        "visual": ("visual expert alone", {"balance": 1.0}),
        "native": ("native expert alone", {"balance": 0.0}),
        "product": ("product of the experts", {"aggregate": "product"}),
        "max": ("maximum of the experts", {"aggregate": "max"}),
        "union": ("union of the experts", {"aggregate": "union"}),
        "native_words": (
            "native expert alone, word by word",
            {"balance": 0.0, "similarity": "words"},
        ),
        "words": (f"both experts, {WORDS}", {"similarity": "words"}),
    }
    scans = {
        "scan_add": ("neighbours added (N steps)", {"scan": "add"}),
        "scan_window": ("neighbours walked through (9N steps)", {"scan": "window"}),
        "forward_only": ("forward alone", {"directions": "forward"}),
        "mamba1": ("Mamba-1", {"operator": "mamba1"}),
        "depth2": ("two blocks", {"depth": 2}),
        "wide": ("a block twice as wide, 64 states", {"expand": 2, "states": 64}),
    }
    changed = [
        Row(name, called, fused(**given), **near)
        for name, (called, given) in {**experts, **scans}.items()
    ]
    return (*main, *changed, *_budgets(), *_beginnings())


def _budgets() -> list[Row]:
    """Fewer tokens still."""
    found = [
        Row("pool_k3", "average pooling, 16 tokens", pooled(3), beside="pool"),
        Row("pool_k4", "average pooling, 9 tokens", pooled(4), beside="pool"),
    ]
    for keep in SMALLER:
        named = f"mlp_selection_k{keep}", f"{SELECTION}, K = {keep}"
        found.append(Row(*named, selected(keep), beside="mlp_selection"))
        named = f"meteor_k{keep}", f"{METEOR}, K = {keep}"
        found.append(Row(*named, fused(keep=keep), beside="meteor"))
    drawn = fused(sampled=[*SMALLER[::-1], KEEP])
    return [
        *found,
        Row("random_k", "K drawn in training", drawn, asks=OTHER_BUDGETS, beside="meteor"),
        Row(
            "random",
            "projector + random tokens",
            card("random", keep=KEEP),
            beside="mlp_selection",
        ),
    ]


def _beginnings() -> list[Row]:
    """Another beginning, another length, and fusion without selection."""
    connector = {part: rate for part, rate in card().trains.items() if part != "language"}
    first = replace(fused(), trains=connector, steps=BEFORE_STEPS)
    longer = {"steps": STEPS * LONGER}
    return [
        Row("fusion_all", "fusion, all tokens", card("meteor", warm=True, only="fusion", **BLOCK)),
        Row(
            "mlp_selection_long",
            f"{SELECTION}, four times the steps",
            replace(selected(), **longer),
            beside="mlp_selection",
        ),
        Row(
            "meteor_long",
            f"{METEOR}, four times the steps",
            replace(fused(), **longer),
            beside="mlp_selection_long",
        ),
        Row("meteor_two_stage", "two stages", fused(), before=first, beside="meteor"),
        Row("meteor_cold", "begun cold", replace(fused(), warm_start=False), beside="meteor"),
    ]


@dataclass(frozen=True)
class Finds:
    """What a row's selection finds of what is asked about, a number a question."""

    row: Found

    def sample(self, *keys: str) -> Sample:
        """A measure by its keys: "recall" or "area", of "own", "visual" or "native"."""
        return self.row.sample([question.scene for question in _sought()], "finds", *keys)

    def of(self, *keys: str) -> Estimate | NotRun:
        """The mean of a measure."""
        return self.sample(*keys).estimate()

    def of_group(self, group: str, *keys: str) -> Estimate | NotRun:
        """The mean over a group's questions."""
        which = [i for i, question in enumerate(_sought()) if question.group == group]
        return self.sample(*keys).of(which).estimate()

    def moved(self, *keys: str) -> Estimate | NotRun:
        """How far it is above what it is when another picture's question is put."""
        return (self.sample(*keys) - self.sample("swapped", *keys)).estimate()

    @property
    def chance(self) -> float | NotRun:
        """The share of a picture's patches that is kept."""
        told = [result["finds"] for result in self.row.results.values()]
        return told[0]["kept"] / told[0]["patches"] if told else NOT_RUN


def _sought() -> list[Question]:
    return [question for question in questions() if question.asks][:ASKED]


def tells(page: Page, rows: Mapping[str, Found]) -> dict[str, Any]:
    """The tables' rows, what connectors cost, and what selection finds."""
    smaller = [f"{name}_k{keep}" for keep in SMALLER for name in ("mlp_selection", "meteor")]
    budgets = {"random_k", "pool_k3", "pool_k4", *smaller}
    looking = ("mlp_selection", "meteor", "visual", "native", "native_words", "words")
    return {
        "main": [rows[name] for name in MAIN],
        "others": [row for name, row in rows.items() if name not in budgets and name not in MAIN],
        "looking": [rows[name] for name in (*looking, "meteor_k16", "meteor_k7")],
        "scans": [rows[name] for name in ("scan_add", "scan_window", "forward_only", "mamba1")],
        "connectors": costs.connectors(page),
        "finds": {name: Finds(row) for name, row in rows.items()},
        "least": LEAST,
        "sought": Counter(question.group for question in _sought()),
    }


def draws(rows: Mapping[str, Found], path: Path) -> Path:
    """A line a method over the budgets that it was trained at, and one for a budget drawn in training."""
    lines = {
        rows[name].called: [rows[name], *(rows[f"{name}_k{k}"] for k in keeps)]
        for name, keeps in (("pool", (3, 4)), ("mlp_selection", SMALLER), ("meteor", SMALLER))
    }
    drawn = rows["random_k"]
    lines[drawn.called] = [drawn, *(drawn.asked(keep=keep) for keep in SMALLER)]
    found = {
        name: [Point(row.tokens, row.accuracy) for row in some if row.answers]
        for name, some in lines.items()
    }
    return figures.lines(found, rows["baseline"].accuracy, path)


PAGE = Page(
    "meteor", rows(), lender="llavolta", measures={"finds": finds}, tells=tells, draws=draws
)
