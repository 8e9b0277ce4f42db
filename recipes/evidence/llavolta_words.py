"""What the results say of LLaVolta's claims: sentences that follow from the numbers."""

from __future__ import annotations

from found import Results, gain, read, right, seeds_of, to
from intervals import Estimate, against, estimate, seen_on
from llavolta import BEST, LAYERS, LONG, PAGE, SMALL, STAGED

# Distances from the baseline in the paper's table, where it has the row.
PAPER_FAR = {"last_stage": "; in the paper +0.3", "heavy": "; in the paper -1.5"}


def in_short(baseline: Results) -> str:
    """The claims and whether they hold, in words that follow from the numbers."""
    lines = [gains(baseline), winner(), late(), *schedules(baseline)]
    return "**In short.**\n\n" + "\n".join(f"- {line}" for line in lines if line)


def gains(baseline: Results) -> str:
    found = {m: g for m in SMALL if (g := gain(PAGE, baseline, m)) is not None}
    most = max(found, key=lambda m: found[m].mean)
    others = ", ".join(f"{m} {g.text()}" for m, g in found.items() if m != "pool")
    return (
        f"{seen_on(found['pool'])}raining with pooling brings {found['pool'].text()} points and "
        f"{compared(found, most)} ({others}). {beginning(baseline)}"
    )


def beginning(baseline: Results) -> str:
    """Where pooling stands for the test alone: in the paper above random dropping."""
    start = {m: estimate(right(baseline, m)).mean for m in SMALL}
    lowest = min(start, key=start.get)
    if start["pool"] >= start["random"]:
        return "For the test alone it stands above random dropping, as in the paper."
    where = "the lowest start of all" if lowest == "pool" else "a low start"
    return (
        f"Part of that is {where}, {100 * start['pool']:.1f} % for the test alone where random dropping has "
        f"{100 * start['random']:.1f}: in the paper it is the other way round, and that does not hold here."
    )


def compared(found: dict[str, Estimate], most: str) -> str:
    """Whom training helps most, as far as the intervals are apart."""
    pool, best = found["pool"], found[most]
    if most == "pool":
        close = [m for m, g in found.items() if m != "pool" and not pool.apart(g)]
        like = f", though about as much as {' and '.join(close)}" if close else ""
        return f"helps it most, as in the paper{like}"
    return f"helps {most} more" if best.apart(pool) else f"helps it about as much as {most}"


def winner() -> str:
    pool, words, first = right(seeds_of(PAGE, "pool")), [], None
    for other in SMALL:
        found = estimate(against(pool, right(seeds_of(PAGE, other)))) if other != "pool" else None
        if found is not None:
            how = {1: "beats", 0: "is not told apart from", -1: "loses to"}[found.side]
            words.append(f"{how} {other} ({found.text()})")
            first = first if first and first.seeds <= found.seeds else found
    begin = seen_on(first) if first else "T"
    return (
        f"{begin}rained at 24 tokens, average pooling {', '.join(words)}. "
        "In the paper it beats them all."
    )


def late() -> str:
    answers = {a["compressor"]: a for a in read(PAGE, PAGE.runs[0])["answers"]}
    early, deep = (
        answers[f"Pool(stride=8, layer={k}, dims=1)"]["accuracy"]["overall"]
        for k in (1, LAYERS[-1])
    )
    return (
        f"Without training, the deeper the pooling the less it costs: stride 8 leaves {100 * early:.1f} % at "
        f"layer 1 and {100 * deep:.1f} % at layer {LAYERS[-1]}, where the question has read the image. The "
        "paper's 70 % fewer tokens for 3 % are not reached at its own depth (layer 1)."
        if early < 0.9
        else ""
    )


def schedules(baseline: Results) -> list[str]:
    """The claim that staged training ends where the baseline does, and the rest of the schedules."""
    ends = {n: d for n in STAGED if n != "last_stage" and (d := to(PAGE, baseline, n)) is not None}
    lines = []
    if ends:
        low = [n for n, d in ends.items() if d.side < 0]
        means = [d.mean for d in ends.values()]
        claim = "does not hold" if len(low) > len(ends) / 2 else "holds for most schedules"
        lines.append(
            f"Staged training should end where uncompressed training ends: at this length that {claim}. Its "
            f"{len(ends)} schedules stand {100 * min(means):+.1f} to {100 * max(means):+.1f} points from the "
            + (f"baseline, below it for certain {', '.join(low)}." if low else "baseline.")
        )
    if (found := to(PAGE, seeds_of(PAGE, "baseline-long"), f"{BEST}-long")) is not None:
        own, base = (estimate(right(seeds_of(PAGE, f"{n}-long"))).mean for n in (BEST, "baseline"))
        lines.append(
            f"With {LONG} steps {BEST} ends at {100 * own:.1f} % and the baseline at {100 * base:.1f} "
            f"({found.text()}). One schedule on one seed, run after the rows below were seen: a hint that "
            "the gap is one of length, no more."
        )
    for name, words in [
        ("last_stage", "Compressed to the end, last_stage"),
        ("heavy", "(2,8) throughout"),
        ("light", "(16,8) throughout"),
    ]:
        if (found := to(PAGE, baseline, name)) is not None:
            paper = PAPER_FAR.get(name, "")
            lines.append(f"{words} stands {found.text()} points from the baseline{paper}.")
    return lines
