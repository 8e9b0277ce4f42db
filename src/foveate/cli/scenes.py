"""The scenes of the report: what each method kept of an image, beside what it answered in its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foveate.chat.pictures import is_video, read
from foveate.cli import pictures

if TYPE_CHECKING:
    from foveate.evaluate.plans import Plan
    from foveate.evaluate.work import Work

SIDE = 240  # pixels of a picture
MOST = 3  # steps of a method that are shown; of more, the first, the middle and the last


def shown_budget(plans: Sequence[Plan]) -> int | float | None:
    """The budget whose pictures are shown: the middle one of those that most methods have."""
    from foveate.evaluate.plans import BARE

    counts: dict[int | float, int] = {}
    for one in plans:
        if one.trained is None and one.method != BARE and one.keep is not None:
            counts[one.keep] = counts.get(one.keep, 0) + 1
    most = [keep for keep, n in counts.items() if n == max(counts.values())]
    return sorted(most, key=float)[len(most) // 2] if most else None


def chosen(examples: Sequence[Any], n: int) -> list[int]:
    """Which questions to show: one of every group in turn, so that few scenes show all of them."""
    groups: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        kinds = groups.setdefault(example.group, [])
        kinds.append(i)
    for group, members in groups.items():
        seen: dict[str, int] = {}
        rank = []
        for i in members:
            kind = examples[i].kind
            rank.append((seen.get(kind, 0), i))
            seen[kind] = seen.get(kind, 0) + 1
        groups[group] = [i for _, i in sorted(rank)]
    turns = [
        members[t]
        for t in range(min(n, len(examples)))
        for members in groups.values()
        if t < len(members)
    ]
    return sorted(turns[:n])


def scenes(work: Work, plans: Sequence[Plan], runs: Sequence[dict[str, Any]], n: int) -> list[Any]:
    """What the report shows of n questions; one image per question is drawn."""
    from foveate.evaluate.plans import BARE
    from foveate.evaluate.report import Scene

    budget, which = shown_budget(plans), chosen(work.examples, n)
    examples = [work.examples[i] for i in which if not any(map(is_video, work.examples[i].images))]
    if not examples:
        return []
    panels: list[list[Any]] = [[] for _ in examples]
    for one, run in zip(plans, runs, strict=True):
        once = one.trained is not None and not one.compressor.elastic
        shown = one.method == BARE or once or one.keep in (budget, None)
        if shown and one.own is None:
            for row, panel in zip(panels, panels_of(work, one, run, examples), strict=True):
                row.append(panel)
    return [
        Scene(e.question, e.answer, e.kind, row) for e, row in zip(examples, panels, strict=True)
    ]


def panels_of(
    work: Work, one: Plan, run: dict[str, Any], examples: Sequence[Any], maps: bool = True
) -> list[Any]:
    """What one run kept of the first image of each example, its maps if wanted, and what it answered."""
    from foveate.evaluate.comparison import called
    from foveate.evaluate.report import Panel

    found, first = [], 0
    steps = _seen(work, one, examples) if one.compressor is not None else []
    name = called(run["job"], work.loaded.name)
    for example in examples:
        answer = run["answers"][example.key]
        shown = (
            _shown(work, example, steps, first, maps)
            if steps
            else [("", _plain(example.images[0]))]
        )
        left = round(answer["after"])
        found.append(Panel(name, left, shown, answer["prediction"], answer["right"]))
        first += len(example.images)
    return found


def _shown(
    work: Work, example: Any, steps: Sequence[Any], i: int, maps: bool
) -> list[tuple[str, Any]]:
    """What each step left of the batch's i-th image, the first of this example; of many, some."""
    from foveate.draw import panels

    grid = steps[0].grid
    views = 1 if grid is None else int(grid[i, :, 0].max()) + 1
    pixels = work.inputs([example])[0]["pixel_values"] if views > 1 else None
    canvas = pictures.of_views(read(example.images[0]), views, pixels)
    drawn = panels(canvas, steps, i, SIDE, maps)
    names = [f"{step.site.words}: {int(step.after[i])} tokens" for step in steps]
    told = list(zip(names, drawn, strict=True))
    return told if len(told) <= MOST else [told[0], told[len(told) // 2], told[-1]]


def _seen(work: Work, one: Plan, examples: Sequence[Any]) -> list[Any]:
    """The steps of one batch's prefill."""
    from foveate import evaluate
    from foveate.hosts import attach

    model, asks = work.of(one).model, [evaluate.ask(e, work.metric) for e in examples]
    with attach.compressed(model, one.acting(examples), **one.how):
        return evaluate.steps(model, work.loaded.processor, asks)


def _plain(image: Any) -> Any:
    """The image as the others show it: square, of about the same size."""
    from PIL import ImageOps

    return ImageOps.fit(read(image), (SIDE, SIDE))
