"""LLaVolta's claims on PatchQA: which of the paper's shapes hold on the twin, and which do not."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import figures
from intervals import Estimate, Right, against, estimate, shown, table
from protocol import OWN, ROOT, Ask, Run, circumstances, counted_7b, read

from foveate.methods.llavolta import SCHEDULES
from foveate.train import RECIPES, Recipe

PAGE = "llavolta"
SEEDS = (0, 1, 2)
STAGED = tuple(name for name in SCHEDULES if name not in ("heavy", "light"))
# One small budget, 24 of 144 visual tokens from layer 1 of 6 on: the paper's layer 2 of 32, scaled.
SMALL = {
    "pool": {"stride": 6, "layer": 1},
    "random": {"keep": 24, "layer": 1},
    "kmeans": {"keep": 24, "layer": 1},
    "fastv": {"keep": 24, "layer": 1},
    "vccattention": {"keep": 24, "block": 16, "layer": 1},
}
# Is it the length of training? One schedule and the baseline again, with twice the steps.
BEST, LONG = "four_stage_wider_deeper", 240
LAYERS, STRIDES = (0, 1, 2, 3, 4), (2, 4, 8, 16)
CURVE = tuple(Ask("pool", {"stride": s, "layer": k}) for k in LAYERS for s in STRIDES)
# Chen et al. 2024, arXiv:2406.20092, as METHODS quotes it: the mean of 13 benchmarks.
PAPER_SMALL = {
    "pool": (53.0, 60.4),
    "random": (47.3, 50.8),
    "kmeans": (54.0, 57.9),
    "fastv": (54.9, 57.0),
    "vccattention": (54.7, 58.5),
}
PAPER_STAGED = {
    "baseline": 61.8,
    "four_stage_wider_deeper": 61.8,
    "four_stage_deeper_wider": 61.9,
    "last_stage": 62.1,
    "heavy": 60.3,
}


def _recipe(seed: int, method: str = "identity", arguments: dict | None = None) -> Recipe:
    return replace(RECIPES["patchqa"](), seed=seed, method=method, arguments=arguments or {})


def _runs() -> list[Run]:
    """The first seed of everything, then the others, the small budget before the schedules."""
    tests = (OWN, *(Ask(slug, arguments) for slug, arguments in SMALL.items()))
    small, staged = {}, {}
    for seed in SEEDS:
        small[seed] = [
            Run(f"baseline-seed{seed}", _recipe(seed), tests),
            *(Run(f"{m}-seed{seed}", _recipe(seed, m, given)) for m, given in SMALL.items()),
        ]
        staged[seed] = [
            Run(f"{name}-seed{seed}", replace(RECIPES[f"llavolta_{name}_patchqa"](), seed=seed))
            for name in (STAGED if seed else SCHEDULES)
        ]
    first, *others = SEEDS
    long = [
        Run(f"{name}-long-seed{first}", replace(card, steps=LONG, seed=first))
        for name, card in [
            ("baseline", _recipe(first)),
            (BEST, RECIPES[f"llavolta_{BEST}_patchqa"]()),
        ]
    ]
    rest = [run for kind in (small, staged) for seed in others for run in kind[seed]]
    return [Run("embedded", None, (OWN, *CURVE)), *small[first], *staged[first], *long, *rest]


RUNS = _runs()


# What was found


def seeds_of(name: str) -> dict[int, dict[str, Any]]:
    """The results of a run by seed, of those that are there."""
    found = {s: read(PAGE, Run(f"{name}-seed{s}", None)) for s in SEEDS}
    return {seed: result for seed, result in found.items() if result is not None}


def right(results: dict[int, dict], method: str | None = None) -> Right:
    """By seed, a 1 or 0 for every question: with a run's own method, or another for the test alone."""
    found = {}
    for seed, result in results.items():
        own, *others = result["answers"]
        answer = own if method is None else next(a for a in others if a["method"] == method)
        found[seed] = [int(c) for c in answer["right"]]
    return found


def gain(baseline: dict[int, dict], slug: str) -> Estimate | None:
    """What training with a method brings over the same method for the test alone."""
    return estimate(against(right(seeds_of(slug)), right(baseline, slug)))


def to(baseline: dict[int, dict], name: str) -> Estimate | None:
    """A run's distance from the uncompressed baseline."""
    return estimate(against(right(seeds_of(name)), right(baseline)))


# The page


def write() -> str:
    """Write docs/llavolta.md and its pictures from the results; returns its path."""
    bare = read(PAGE, RUNS[0])
    baseline = seeds_of("baseline")
    if bare is None or not baseline:
        raise SystemExit("no results yet: run `python recipes/evidence llavolta`")
    figures.curve(bare["answers"], ROOT / "docs" / "llavolta-curve.svg")
    path = ROOT / "docs" / "llavolta.md"
    path.write_text(page(bare, baseline), encoding="utf-8")
    return str(path.relative_to(ROOT))


def page(bare: dict[str, Any], baseline: dict[int, dict]) -> str:
    """The page, all of it from the results."""
    recipe = next(iter(baseline.values()))["asked"]["recipe"]
    seen = recipe["steps"] * recipe["batch"]
    end = shown(estimate(right(baseline)))
    return f"""# LLaVolta on PatchQA

<!-- written by `python recipes/evidence llavolta --page`; do not edit -->

Which of LLaVolta's claims (Chen et al. 2024, arXiv:2406.20092) hold on a model that a laptop can train? The
twin is the embedded model (2.2 M parameters, 144 visual tokens, 6 decoder layers) on PatchQA. All runs
begin from one state: projector and language model shrunk to {recipe["shrink"]} of their weights, the rest
fresh, after which the model guesses; then {recipe["steps"]} steps of {recipe["batch"]} scenes with one
question each ({seen:,} in all, the same in the same order for every run of a seed), the vision tower
frozen, {end} % right in the end without compression. Layers are the paper's, scaled from 32 to 6: its
layer 2 is layer 1 here, its 16 is 3. {recipe_count()} questions of the test split answer for every row.
± is half a 95 % interval: of the mean over seeds (Student's t) where three are there, else (†) over the
questions, paired where it is of a difference. The twin is small and its images are crowded: 144 tokens
hold what 576 do in the paper, so every pooled token costs more. It can show which shapes are real, not how
large they are at 7B.

{in_short(baseline)}

## 1. Pooling without training

The embedded model as it comes, average pooling before decoder layer K (0: before the language model) with
stride S; accuracy in per cent, uncompressed {100 * bare["answers"][0]["accuracy"]["overall"]:.1f}. In
brackets the visual tokens of a layer, averaged over the layers.

{curve_table(bare["answers"][1:])}

![accuracy against tokens, a line for each layer](llavolta-curve.svg)

## 2. One small budget, for the test alone and trained

24 of 144 visual tokens from layer 1 on. *Test alone*: the model trained without compression. *Trained*: the
same steps with the method at work. The paper's columns are its means over 13 benchmarks at 72 of 576
tokens (VCC-attention 81), quoted.

{small_table(baseline)}

By kind of question, trained:

{group_table(baseline)}

## 3. Schedules

Each at its own inference setting. *Compression* is the mean over training, in brackets at 7B as the paper
defines it (its own figures: 166, 170 and 235 % for four stages wider-deeper, deeper-wider and last stage,
though averaging its stages gives 163, 161, 235). *Cost* is the language model's forward MACs over
training, *time* the processor time of training, both relative to no compression; in the twin the frozen
vision tower, the same in all rows, takes much of the time. *7B* is the forward of all of LLaVA-1.5-7B,
counted on its config.

{staged_table(baseline)}

## Where the numbers come from

`python recipes/evidence llavolta` makes every run and this page; results/llavolta/ has a file a run, with
the recipe, the loss of every step and a 1 or 0 for every question. {circumstances(PAGE, RUNS)}
"""


def recipe_count() -> str:
    return str(read(PAGE, RUNS[0])["answers"][0]["n"])


def curve_table(answers: list[dict[str, Any]]) -> str:
    found = {a["compressor"]: a for a in answers}
    rows = []
    for layer in LAYERS:
        cells = []
        for stride in STRIDES:
            a = found[f"Pool(stride={stride}, layer={layer}, dims=1)"]
            cells.append(f"{100 * a['accuracy']['overall']:.1f} ({a['equivalent_tokens']:.0f})")
        rows.append([f"K = {layer}", *cells])
    return table(["", *(f"S = {s}" for s in STRIDES)], rows)


def small_table(baseline: dict[int, dict]) -> str:
    rows = []
    for slug in SMALL:
        low, high = PAPER_SMALL[slug]
        rows.append(
            [
                slug,
                shown(estimate(right(baseline, slug))),
                shown(estimate(right(seeds_of(slug)))),
                shown(gain(baseline, slug), "+"),
                f"{low} → {high}",
                f"{high - low:+.1f}",
            ]
        )
    rows.append(["none", "", shown(estimate(right(baseline))), "", "61.8", ""])
    return table(["method", "test alone", "trained", "gain", "paper", "gain"], rows)


def group_table(baseline: dict[int, dict]) -> str:
    groups = [g for g in next(iter(baseline.values()))["answers"][0]["accuracy"] if g != "overall"]
    rows = []
    for name, results in {**{slug: seeds_of(slug) for slug in SMALL}, "none": baseline}.items():
        found = [r["answers"][0]["accuracy"] for r in results.values()]
        rows.append(
            [name, *(f"{100 * fmean(a[g] for a in found):.1f}" if found else "–" for g in groups)]
        )
    return table(["method", *groups], rows)


def staged_table(baseline: dict[int, dict]) -> str:
    large, rows = counted_7b(PAGE, SCHEDULES), []
    bare = next(iter(baseline.values()))
    for name in ("baseline", *SCHEDULES):
        results = baseline if name == "baseline" else seeds_of(name)
        if not results:
            continue
        cost = next(iter(results.values()))["training"]["cost"]
        saved = (cost["bare_macs"] - cost["macs"]) / bare["answers"][0]["language_macs"]
        seconds = [
            found["training"]["cpu_seconds"] / baseline[seed]["training"]["cpu_seconds"]
            for seed, found in results.items()
            if seed in baseline
        ]
        seven = large.get(name, {"compression": 1.0, "to_bare": 1.0})
        answer = next(iter(results.values()))["answers"][0]
        rows.append(
            [
                name,
                f"{100 * cost['compression']:.0f} % ({100 * seven['compression']:.0f} %)",
                f"{1 - saved:.2f}",
                f"{fmean(seconds):.2f}" if seconds else "–",
                f"{seven['to_bare']:.2f}",
                f"{answer['equivalent_tokens']:.0f}",
                shown(estimate(right(results))),
                "" if name == "baseline" else shown(to(baseline, name), "+"),
                f"{PAPER_STAGED[name]}" if name in PAPER_STAGED else "–",
            ]
        )
    head = "schedule,compression,cost,time,7B,tokens at inference,accuracy,to baseline,paper"
    return table(head.split(","), rows)


# What it says


def in_short(baseline: dict[int, dict]) -> str:
    """The claims and whether they hold, in words that follow from the numbers."""
    lines = [gains(baseline), winner(), late(), *schedules(baseline)]
    return "**In short.**\n\n" + "\n".join(f"- {line}" for line in lines if line)


def gains(baseline: dict[int, dict]) -> str:
    found = {m: g for m in SMALL if (g := gain(baseline, m)) is not None}
    most = max(found, key=lambda m: found[m].mean)
    others = ", ".join(f"{m} {g.text()}" for m, g in found.items() if m != "pool")
    return (
        f"{seen_on(found['pool'])}raining with pooling brings {found['pool'].text()} points and "
        f"{compared(found, most)} ({others})."
    )


def compared(found: dict[str, Estimate], most: str) -> str:
    """Whom training helps most, as far as the intervals are apart."""
    pool, best = found["pool"], found[most]
    if most == "pool":
        close = [m for m, g in found.items() if m != "pool" and not pool.apart(g)]
        like = f", though about as much as {' and '.join(close)}" if close else ""
        return f"helps it most, as in the paper{like}"
    return f"helps {most} more" if best.apart(pool) else f"helps it about as much as {most}"


def seen_on(found: Estimate) -> str:
    """How a sentence on training begins: with the seeds, where they are too few for an interval."""
    return {1: "On one seed, t", 2: "On two seeds, t"}.get(found.seeds, "T")


def winner() -> str:
    pool, words, first = right(seeds_of("pool")), [], None
    for other in SMALL:
        found = estimate(against(pool, right(seeds_of(other)))) if other != "pool" else None
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
    answers = {a["compressor"]: a for a in read(PAGE, RUNS[0])["answers"]}
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


def schedules(baseline: dict[int, dict]) -> list[str]:
    ends = {n: d for n in STAGED if n != "last_stage" and (d := to(baseline, n)) is not None}
    lines = []
    if ends:
        low = ", ".join(n for n, d in ends.items() if d.side < 0)
        mean = fmean(d.mean for d in ends.values())
        lines.append(
            f"Staged training that ends uncompressed stands {100 * mean:+.1f} points from the baseline, "
            f"the mean of {len(ends)} schedules; "
            + (f"below it stand {low}." if low else "none is told apart from it downwards.")
        )
    for name, words in [
        ("last_stage", "Compressed to the end, last_stage"),
        ("heavy", "(2,8) throughout"),
        ("light", "(16,8) throughout"),
    ]:
        if (found := to(baseline, name)) is not None:
            lines.append(f"{words} stands {found.text()} points from the baseline.")
    if (found := to(seeds_of("baseline-long"), f"{BEST}-long")) is not None:
        lines.append(
            f"With {LONG} steps instead, {BEST} stands {found.text()} points from a baseline as long."
        )
    return lines
