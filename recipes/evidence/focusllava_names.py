"""What the rows and measures of FocusLLaVA's page are called, and how two of them stand to each other."""

from __future__ import annotations

import focusllava_tiles as tiles
from focusllava import BY_LAYER, FIXED, FOCUS, LONG, ROUTER, TUNED
from intervals import Estimate

PAPER = 39  # per cent of the visual tokens, with which the paper beats its baseline
NAMES = {
    "baseline": "all tokens",
    "vision": "vision-guided alone",
    "text": "text-guided alone",
    FOCUS: "FocusLLaVA",
    "text_untrained": "text-guided, for the test alone",
    "fastv_untrained": "FastV, for the test alone",
    **{row: f"guided before layer {layer}" for row, layer in BY_LAYER.items() if row != FOCUS},
    **{row: f"balance term {a['balance']:g}" for row, (_, a) in ROUTER.items() if "balance" in row},
    "gate_chosen": "gate of the chosen scale",
    "no_explore": "no noise in the choice",
    "region8": "regions of 8 × 8",
    **{row: f"ρ = {arguments['keep']:g} throughout" for row, (_, arguments) in FIXED.items()},
    "max2": "max-pooling 2 × 2",
    "max4": "max-pooling 4 × 4",
    "pool": "average pooling 2 × 2",
    "random": "random tokens half way",
}
NAMES |= {row: NAMES[row.removeprefix("tiles_")] for row in tiles.ROWS}
NAMES |= {row: f"{NAMES[of]}, from the trained model" for row, of in TUNED.items()}
NAMES |= {row: f"{NAMES[of]}, twice as long" for row, of in LONG.items()}
LOOKED = {
    "area": "area",
    "other": "area, other question",
    "kept": "asked kept",
    "chance": "all kept",
    "overlap": "overlap",
    "expected": "by chance",
}
STANDS = {1: "stands above", 0: "is not told apart from", -1: "stands below"}


def stands(found: Estimate, other: str) -> str:
    """How a row stands to another, as far as intervals tell."""
    return f"{STANDS[found.side]} {other} ({found.text()})"
