"""The report: one HTML file that needs nothing else, with curves, table and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from PIL import Image

from foveate.evaluate.comparison import best, of_bare, showed, tokens
from foveate.evaluate.curves import curves
from foveate.evaluate.score import OVERALL


@dataclass(frozen=True)
class Panel:
    """What one method kept of a scene, and what it then answered.

    pictures: of one step or several, each with a caption; empty where one picture needs none.
    """

    label: str
    tokens: int
    pictures: Sequence[tuple[str, Image.Image]]
    prediction: str
    right: bool


@dataclass(frozen=True)
class Scene:
    """A question about an image, and how each method fared, the bare model first."""

    question: str
    answer: str
    kind: str
    panels: Sequence[Panel]


def report(
    document: Mapping[str, Any],
    scenes: Sequence[Scene] = (),
    methods: Mapping[str, Mapping[str, Any]] | None = None,
    budget: str = "",
) -> str:
    """The page as text. document as `comparison` makes it.

    methods says of each slug its "line", "paper" and "arxiv"; budget names the one the scenes show.
    """
    names = {r["name"]: r["method"] for r in document["runs"] if not of_bare(document, r)}
    return (
        pages("foveate.evaluate")
        .get_template("report.html.j2")
        .render(
            doc=document,
            curves=curves(document),
            scenes=scenes,
            methods={name: (methods or {}).get(slug, {}) for name, slug in names.items()},
            budget=budget,
            best=best(document),
            showed=showed(document),
            groups=[OVERALL, *(g for g in document["groups"] if g != OVERALL)],
            others=list(dict.fromkeys(run["model"] for run in document["runs"]))[1:],
            timed=any(run["prefill"] for run in document["runs"]),
        )
    )


def pages(*rooms: str) -> Environment:
    """The templates of these rooms, and what they can say of numbers and pictures."""
    loader = ChoiceLoader([PackageLoader(room) for room in rooms])
    page = Environment(loader=loader, autoescape=True, trim_blocks=True)
    page.filters.update(uri=uri, percent=percent, interval=interval, si=si, tokens=tokens)
    return page


def uri(image: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def percent(share: float | None) -> str:
    """83.2 for 0.832; a dash for what has no score."""
    return "–" if share is None else f"{100 * share:.1f}"


def interval(ends: Sequence[float] | None) -> str:
    """80–86 for (0.80, 0.86)."""
    return "" if ends is None else f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}"


def si(value: float | None) -> str:
    """Three figures and a letter: 1.23 G."""
    if value is None:
        return "–"
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or unit == "T":
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000
    raise AssertionError
