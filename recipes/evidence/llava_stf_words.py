"""What the results say of LLaVA-STF's claims: sentences that follow from the numbers."""

from __future__ import annotations

import json
from statistics import fmean

from costs import connectors
from found import Results, groups, right, seeds_of, to
from intervals import Estimate, estimate, seen_on
from llava_stf import BEFORE_STEPS, BLOCKS, COLD, OWN, PAGE, STAGED, beside
from protocol import ROOT

# Tang and Shen 2025, arXiv:2506.07138, as METHODS quotes it; MME, which lacks a row, left out.
POINTS = ("VQAv2", "GQA", "VizWiz", "SQA", "TextVQA", "POPE", "MMB", "MMB-CN")
PAPER = {
    "baseline": (78.5, 62.0, 50.0, 66.8, 58.2, 85.9, 64.3, 58.3),
    "pool": (77.0, 62.1, 44.0, 69.8, 55.5, 86.3, 65.0, 57.9),
    OWN: (78.1, 61.9, 51.1, 70.5, 57.4, 86.0, 66.2, 58.9),
}
NAMES = {
    "baseline": "all tokens, the projector",
    "pool": "average pooling",
    "stf": "STF",
    "mbtf": "MBTF",
    OWN: "STF + MBTF",
    "pool_k3": "average pooling, k = 3",
    "pool_k4": "average pooling, k = 4",
    "stf_mbtf_k3": "STF + MBTF, k = 3",
    "stf_mbtf_k4": "STF + MBTF, k = 4",
    "blocks1": "STF + MBTF of 1 block",
    "blocks2": "STF + MBTF of 2 blocks",
    COLD: "STF + MBTF, begun cold",
    "stf_mbtf_two_stage": "STF + MBTF, two stages",
}
STANDS = {1: "stands above", 0: "is not told apart from", -1: "stands below"}


def in_short(baseline: Results) -> str:
    """The claims and whether they hold, in words that follow from the numbers; "" without any."""
    pool = seeds_of(PAGE, "pool")
    words = [reached(to(PAGE, baseline, OWN)), over_pooling(to(PAGE, pool, OWN)), price()]
    words += [*parts(baseline, pool), paying(baseline), windows(), changed(), staged()]
    words = [f"- {line}" for line in words if line]
    return "\n".join(["**In short.**\n", *words, ""]) if words else ""


def reached(found: Estimate | None) -> str:
    """Whether a quarter of the tokens reaches the full-token baseline."""
    if found is None:
        return ""
    most = f"the interval excludes a loss of more than {100 * (found.half - found.mean):.1f} points"
    verdict = {1: "reached, and passed", 0: f"{most} and no smaller one", -1: "not reached here"}
    return (
        f"{seen_on(found)}rained at 25 % of the tokens, STF + MBTF {STANDS[found.side]} the full-token "
        f"baseline ({found.text()} points): {verdict[found.side]}. In the paper the mean over its "
        f"{len(POINTS)} benchmarks is {paper(OWN, 'baseline'):+.1f}."
    )


def over_pooling(found: Estimate | None) -> str:
    """Whether it beats average pooling of the same windows, retrained."""
    if found is None:
        return ""
    return (
        f"{seen_on(found)}he learnt fusion {STANDS[found.side]} average pooling retrained at the same "
        f"tokens ({found.text()}; in the paper {paper(OWN, 'pool'):+.1f}). Longer training may part the two. "
        "It also has more weights that learn, and no row tells what these alone bring."
    )


def price() -> str:
    """What an image's way to the language model costs, beside what there is to save."""
    if not seeds_of(PAGE, OWN):
        return ""
    own, old = (connectors(PAGE)[row]["macs"] / 1e6 for row in (OWN, "baseline"))
    cells = json.loads((ROOT / "results" / "bench-llava_stf-7b.json").read_text())["cells"]
    large = next(cell["macs"] for cell in cells if cell["method"] == "llava_stf")
    bare = next(cell["macs"] for cell in cells if cell["method"] == "identity")
    return (
        f"The connector takes {own:.0f} MMAC an image where the projector takes {old:.0f}. Beside a language "
        "model as small as this one that eats what fewer tokens save (column *cost*). At 7B it takes "
        f"{large['connector'] / 1e9:.1f} of {large['total'] / 1e9:,.0f} GMAC, {bare['total'] / 1e9:,.0f} "
        "without it (results/bench-llava_stf-7b.json)."
    )


def paper(row: str, other: str) -> float:
    """How far two rows of the paper are apart, the mean over its benchmarks."""
    return fmean(PAPER[row]) - fmean(PAPER[other])


def parts(baseline: Results, pool: Results) -> list[str]:
    """What each of the two parts does alone."""
    alone, both = to(PAGE, pool, "stf"), to(PAGE, seeds_of(PAGE, "stf"), OWN)
    blocks, words = to(PAGE, baseline, "mbtf"), []
    if alone is not None:
        more = f"; with MBTF before it, it {_to(both)} STF alone ({both.text()})" if both else ""
        words.append(
            f"{seen_on(alone)}he spatial part alone, STF, {_to(alone)} average pooling "
            f"({alone.text()}){more}."
        )
    if blocks is not None:
        words.append(
            f"{seen_on(blocks)}he fusion of blocks alone, MBTF at all tokens, {_to(blocks)} the baseline "
            f"({blocks.text()})."
        )
    return words


def _to(found: Estimate) -> str:
    return STANDS[found.side]


def paying(baseline: Results) -> str:
    """Which groups of questions a quarter of the tokens costs, as far as intervals tell."""
    found = {g: d for g in groups() if (d := to(PAGE, baseline, OWN, g)) is not None}
    words = []
    for side, where in {-1: "below it", 1: "above it", 0: "not told apart"}.items():
        names = [f"{g} ({d.text()})" for g, d in found.items() if d.side == side]
        words += [f"{where} {', '.join(names)}"] if names else []
    begin = seen_on(next(iter(found.values()))) if found else ""
    return (
        f"{begin}he questions by group, STF + MBTF and the baseline: {'; '.join(words)}."
        if words
        else ""
    )


def windows() -> str:
    """How wider windows do, beside pooling over the same."""
    words = []
    for k in (3, 4):
        found = to(PAGE, seeds_of(PAGE, f"pool_k{k}"), row := f"{OWN}_k{k}")
        if found is not None:
            own = 100 * estimate(right(seeds_of(PAGE, row))).mean
            words.append(
                f"k = {k} ends at {own:.1f} % and {_to(found)} pooling over it ({found.text()})"
            )
    return f"On one seed, wider windows: {'; '.join(words)}." if words else ""


def changed() -> str:
    """One thing changed at a time."""
    words = []
    for row in (*BLOCKS, COLD):
        if (found := to(PAGE, seeds_of(PAGE, beside(row)), row)) is not None:
            words.append(f"{NAMES[row]} {_to(found)} {NAMES[beside(row)]} ({found.text()})")
    return f"On one seed, one thing changed: {'; '.join(words)}." if words else ""


def staged() -> str:
    """What a first stage for the connector alone brings."""
    found = {of: to(PAGE, seeds_of(PAGE, of), row) for row, of in STAGED.items()}
    words = [f"{NAMES[of]}: {far.text()}" for of, far in found.items() if far is not None]
    begin = f"On one seed, {BEFORE_STEPS} steps for the connector alone, ahead of the others, bring"
    return f"{begin} – {'; '.join(words)}." if words else ""
