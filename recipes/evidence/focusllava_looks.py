"""What the results say of where the two samplers look: sentences that follow from the numbers."""

from __future__ import annotations

from focusllava import BY_LAYER, FOCUS, HALF, LAYERS, PAGE
from focusllava_found import busy_area, fine_on, kept_at, look, looked_into, scaled
from focusllava_samples import KINDS
from found import Results, right, seeds_of
from intervals import Estimate, against, estimate, seen_on

HOLDS = dict(zip(KINDS, ("a sign or a digit", "objects", "background alone"), strict=True))
ROUTED = {1: "goes by what is there", 0: "is not seen to go by what is there", -1: "is upside down"}
FOLLOWS = {1: "follows what is asked", 0: "is not seen to follow it", -1: "goes elsewhere"}


def scale() -> str:
    """Whether busy regions get fine scales and flat ones coarse ones."""
    area = busy_area(FOCUS, 0.5)
    if area is None:
        return ""
    told = "; ".join(
        f"of those that hold {HOLDS[kind]} {_split(kind)} % at scales 1, 2 and 4" for kind in KINDS
    )
    fine = fine_on(FOCUS)
    more = (
        ""
        if fine is None
        else f" Of the tokens at scale 1, {100 * fine[0]:.0f} % lie on signs, digits and objects, which "
        f"cover {100 * fine[1]:.0f} % of the patches."
    )
    return (
        f"{seen_on(area)}he scale of a region {ROUTED[area.side]}: {told}. The router expects more tokens of "
        f"a busy region than of a bare one in {busy_area(FOCUS).text('')} % of pairs, chance 50.{more}"
    )


def _split(kind: str) -> str:
    shares = [scaled(FOCUS, "regions", kind, scale) for scale in ("1", "2", "4")]
    return ", ".join(f"{100 * share.mean:.0f}" for share in shares)


def lookers() -> str:
    """Whether one scene with two questions gives two maps."""
    moved = look(FOCUS, HALF, "area", "other")
    if moved is None:
        return ""
    area, other, kept, chance, overlap, expected = (
        look(FOCUS, HALF, name).text("")
        for name in ("area", "other", "kept", "chance", "overlap", "expected")
    )
    return (
        f"{seen_on(moved)}he question's look, of two questions on one scene, {FOLLOWS[moved.side]}: a patch "
        f"that is asked about is looked at more than another in {area} % of pairs, and in {other} when the "
        f"other question is put ({moved.text()} points between them). At ρ = {kept_at(FOCUS):g} {kept} % of "
        f"the asked patches stay, of all patches {chance}; of the tokens that stay for one question "
        f"{overlap} % stay for the other, by chance {expected}."
    )


def guidance(baseline: Results) -> str:
    """How accuracy, and the look, go by guidance layer, on one seed."""
    found = by_layer(baseline)
    if len(found) < 2:
        return ""
    best = max(found, key=lambda layer: found[layer].mean)
    level = [layer for layer in found if layer != best and not _apart(layer, best)]
    words = ", ".join(f"{far.text()} before layer {layer}" for layer, far in sorted(found.items()))
    ties = f", not told apart from it {', '.join(map(str, sorted(level)))}" if level else ""
    look_at = {k: e for k in looked_into(FOCUS) if (e := look(FOCUS, k, "area", "other"))}
    sharp = max(look_at, key=lambda layer: look_at[layer].mean) if look_at else None
    more = (
        ""
        if sharp is None
        else f" The look follows the question most in the layer before {sharp} "
        f"({look_at[sharp].text()} points)."
    )
    return (
        f"By guidance layer of {LAYERS}, on one seed, beside the baseline: {words}; highest before "
        f"{best}{ties}. The paper finds the middle layers best.{more}"
    )


def by_layer(baseline: Results) -> dict[int, Estimate]:
    """By guidance layer, how far the first seed is from the baseline's."""
    found = {}
    for row, layer in BY_LAYER.items():
        far = estimate(against(_first(row), right({s: r for s, r in baseline.items() if s == 0})))
        found |= {layer: far} if far is not None else {}
    return found


def _apart(one: int, other: int) -> bool:
    """Whether two guidance layers are told apart, question by question."""
    rows = {layer: row for row, layer in BY_LAYER.items()}
    found = estimate(against(_first(rows[one]), _first(rows[other])))
    return found is not None and found.side != 0


def _first(row: str) -> dict[int, list[int]]:
    return right({s: r for s, r in seeds_of(PAGE, row).items() if s == 0})
