"""FocusLLaVA where compression is the point: the runs on four times larger pictures, in tiles.

The twin is LLaVA-NeXT's: 144 tokens of the whole picture, a map of 24 × 24 from its tiles and 24 newlines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from protocol import OWN, Ask, Run

from foveate.train import RECIPES, Recipe

SEED = 0
Row = tuple[str, Mapping[str, Any]]  # a name of METHODS and its arguments
GUIDED = {"keep": 0.5, "sampled": [0.3, 1.0]}
ROWS: dict[str, Row] = {
    "tiles_baseline": ("identity", {}),
    "tiles_both": ("focusllava", GUIDED),
    "tiles_vision": ("focusllava", {"only": "vision"}),
    "tiles_text": ("focusllava", {"only": "text", **GUIDED}),
    "tiles_max2": ("focusllava", {"only": "vision", "scales": [2]}),
}
PRICED = {
    "tiles_vision": (0.5, 1.0, 2.0, 4.0)
}  # of the trained router's tokens, for the test alone
BASELINE, FOCUS = "tiles_baseline", "tiles_both"


def recipe(row: str, seed: int = SEED) -> Recipe:
    """A row's recipe: all alike but for the method."""
    method, arguments = ROWS[row]
    return replace(RECIPES["patchqa_2x"](), seed=seed, method=method, arguments=dict(arguments))


def _asks(row: str) -> tuple[Ask, ...]:
    return (OWN, *(Ask(OWN.method, {"price": price}) for price in PRICED.get(row, ())))


RUNS: dict[str, Run] = {row: Run(f"{row}-seed{SEED}", recipe(row), _asks(row)) for row in ROWS}
