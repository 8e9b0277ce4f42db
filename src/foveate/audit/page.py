"""The page of an audit: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from foveate.evaluate.report import Scene, interval, percent, uri

LOW, HIGH = np.array([244.0, 247.0, 251.0]), np.array([8.0, 48.0, 107.0])
CELL = 16  # pixels of a map's cell


def page(document: Mapping[str, Any], scenes: Sequence[tuple[str, Sequence[Scene]]] = ()) -> str:
    """The page as text. document as `audit` makes it; scenes: flipped answers, by the name of their row."""
    made = Environment(loader=PackageLoader("foveate.audit"), autoescape=True, trim_blocks=True)
    made.filters.update(uri=uri, percent=percent, interval=interval, heat=heat)
    rows = sorted(document["rows"], key=lambda row: (-row["tokens"], row["flips"]["share"]))
    return made.get_template("audit.html.jinja").render(
        doc=document,
        rows=rows,
        scenes=scenes,
        groups=list(dict.fromkeys(group for row in rows for group in row["groups"])),
        widest=max([row["flips"]["interval"][1] for row in rows], default=1.0),
    )


def heat(cells: Sequence[Sequence[float]]) -> Image.Image:
    """A map as a picture: from pale at 0 to dark at its largest cell."""
    values = np.asarray(cells, float)
    part = (values / max(values.max(), 1e-12))[..., None]
    colours = (LOW + (HIGH - LOW) * part).astype(np.uint8)
    return Image.fromarray(colours.repeat(CELL, 0).repeat(CELL, 1))
