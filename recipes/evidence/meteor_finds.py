"""What the results say of where the two experts look: numbers, a table by row and one by group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from statistics import fmean

from finding import sought
from found import Results, seeds_of
from intervals import Estimate, Right, against, estimate, seen_on, shown, table
from meteor import METEOR, PAGE

Keys = tuple[str, ...]  # to a measure in a result's "finds"
OWN, VISUAL, NATIVE = (("recall", name) for name in ("own", "visual", "native"))
AREA, VISUAL_AREA = ("area", "native"), ("area", "visual")
OTHER_OWN, OTHER_AREA = ("swapped", *OWN), ("swapped", *AREA)
HEAD = {
    "kept": OWN,
    "visual alone": VISUAL,
    "native alone": NATIVE,
    "area, visual": VISUAL_AREA,
    "area, native": AREA,
    "kept, another question": OTHER_OWN,
    "area, native, another question": OTHER_AREA,
}


def values(results: Results, path: Keys, group: str | None = None) -> Right:
    """By seed, a share for every question that asks about something, or every one of a group."""
    found, wanted = {}, [i for i, own in enumerate(asked_groups()) if group in (None, own)]
    for seed, result in results.items():
        told = result.get("finds")
        for key in path:
            told = None if told is None else told[key]
        if told is not None:
            each = [float(value) for value in told.split()]
            found[seed] = [each[i] for i in wanted]
    return found


@cache
def asked_groups() -> tuple[str, ...]:
    """The group of every question that asks about something."""
    return tuple(example.group for example in sought())


def mean(row: str, path: Keys, group: str | None = None) -> Estimate | None:
    """What a row has of a measure."""
    return estimate(values(seeds_of(PAGE, row), path, group))


def over(row: str, path: Keys, level: float) -> Estimate | None:
    """How far a measure is above a level, that of chance say."""
    found = mean(row, path)
    return None if found is None else found._replace(mean=found.mean - level)


def moved(row: str, path: Keys, other: Keys) -> Estimate | None:
    """How far a measure is above another of the same row, question by question."""
    results = seeds_of(PAGE, row)
    return estimate(against(values(results, path), values(results, other)))


def chance(row: str) -> float | None:
    """The share of a picture's patches that a row keeps."""
    told = [r["finds"] for r in seeds_of(PAGE, row).values() if "finds" in r]
    return fmean(t["kept"] / t["patches"] for t in told) if told else None


def finds_table(rows: Mapping[str, str]) -> str:
    """All measures, a line for each row. rows: what each is called."""
    lines = []
    for row, name in rows.items():
        least = chance(row)
        cells = [shown(mean(row, path)) for path in HEAD.values()]
        lines.append([name, "–" if least is None else f"{100 * least:.1f}", *cells])
    return table(["row", "chance", *HEAD], lines)


def group_table() -> str:
    """What LLaVA-Meteor's selection keeps, by group of questions."""
    names = tuple(dict.fromkeys(asked_groups()))
    lines = [
        [name, *(shown(mean(METEOR, path, group)) for group in names)]
        for name, path in HEAD.items()
        if "another" not in name
    ]
    return table(
        ["LLaVA-Meteor", *(f"{name} ({asked_groups().count(name)})" for name in names)], lines
    )


def finds() -> str:
    """Whether the native expert finds what the question asks."""
    area, least = over(METEOR, AREA, 0.5), chance(METEOR)
    if area is None:
        return ""
    own, visual, native = (mean(METEOR, path).text("") for path in (OWN, VISUAL, NATIVE))
    verdict = {1: "finds", 0: "does not find", -1: "looks away from"}[area.side]
    return (
        f"{seen_on(area)}he native expert {verdict} what is asked: it scores an asked patch above another in "
        f"{mean(METEOR, AREA).text('')} % of pairs, where chance has 50. Of the asked patches it would keep "
        f"{native} % alone, the visual expert {visual}; both together keep {own}, chance {100 * least:.0f}."
    )


def asks() -> str:
    """Whether it matters to the selection which question is put."""
    own, area = moved(METEOR, OWN, OTHER_OWN), moved(METEOR, AREA, OTHER_AREA)
    if own is None:
        return ""
    how = {1: "matters", 0: "is not seen to matter", -1: "matters, and misleads"}[own.side]
    return (
        f"{seen_on(own)}o what is kept the question {how}: with the right one instead of another picture's, "
        f"the share of the asked patches kept is {own.text()} points, that of the native expert's pairs "
        f"{area.text()}."
    )
