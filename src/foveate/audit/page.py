"""The audit as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from foveate.draw.paint import heat
from foveate.evaluate.report import Panel, pages

CELL, SIDE = 24, 288  # pixels of a map's cell at most, and of a map
NOWHERE, EVEN = 255.0, 222.0  # white where a map has no value, grey where it has one alone


@dataclass(frozen=True)
class Flipped:
    """A question that is answered otherwise than with all tokens: what either saw and said.

    row   place of the run in the document
    lost  sentences that are no longer said
    """

    row: int
    question: str
    answer: str | None
    whole: Panel
    fewer: Panel
    lost: Sequence[str] = ()


def page(document: Mapping[str, Any], flipped: Sequence[Flipped] = ()) -> str:
    """The page as text. document as `audit` makes it."""
    made = pages("foveate.audit", "foveate.evaluate")
    made.filters.update(heatmap=heatmap, ends=ends)
    bare, *rows = document["rows"]
    own = [[one for one in flipped if one.row == n] for n in range(len(document["rows"]))]
    by_share = sorted(rows, key=lambda row: row["flips"]["share"])
    return made.get_template("audit.html.j2").render(
        doc=document,
        bare=bare,
        rows=rows,
        calm=by_share[0],
        rough=by_share[-1],
        hidden=max(rows, key=_hidden) if document["labelled"] else None,
        widest=max(0.02, by_share[-1]["flips"]["share"]),
        flipped=[(row, own[n]) for n, row in enumerate(document["rows"]) if own[n]],
    )


def _hidden(row: Mapping[str, Any]) -> int:
    """Flips that the score does not show: those to worse that others to better outweigh."""
    return min(row["worse"], row["better"])


def ends(drawn: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    """The lowest and the highest value of a map."""
    values = [one for row in drawn for one in row if one is not None]
    return min(values, default=0.0), max(values, default=0.0)


def heatmap(drawn: Sequence[Sequence[float | None]]) -> Image.Image:
    """A map from its lowest value in dark purple to its highest in pale yellow; one value alone is grey."""
    values = np.array(drawn, dtype=float)
    there, (low, high) = ~np.isnan(values), ends(drawn)
    ink = heat(np.nan_to_num((values - low) / (high - low))) if high > low else np.full(3, EVEN)
    pixels = np.where(there[..., None], ink, NOWHERE).astype(np.uint8)
    cell = max(1, min(CELL, SIDE // max(values.shape)))
    return Image.fromarray(pixels.repeat(cell, 0).repeat(cell, 1))
