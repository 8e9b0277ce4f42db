"""The page about LLaVolta on PatchQA: its tables, all of them from the results."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import figures
from costs import counted_7b
from found import Results, circumstances, gain, progress, read, right, seeds_of, to
from intervals import estimate, shown, table
from llavolta import LAYERS, PAGE, SMALL, STRIDES
from llavolta_words import in_short
from protocol import QUESTIONS, ROOT

from foveate.keeping import provenance
from foveate.methods.llavolta import SCHEDULES

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


def write() -> str:
    """Write docs/llavolta.md and its pictures from the results; returns its path."""
    bare = read(PAGE, PAGE.runs[0])
    baseline = seeds_of(PAGE, "baseline")
    if bare is None or not baseline:
        raise SystemExit("no results yet: run `python recipes/evidence llavolta`")
    figures.curve(bare["answers"], ROOT / "docs" / "llavolta-curve.svg")
    path = ROOT / "docs" / "llavolta.md"
    provenance.write(path, page(bare, baseline))
    return str(path.relative_to(ROOT))


def page(bare: dict[str, Any], baseline: Results) -> str:
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
layer 2 is layer 1 here, its 16 is 3. {QUESTIONS} questions of the test split answer for every row.
± is half a 95 % interval: of the mean over seeds (Student's t) where three are there, else (†) over the
questions alone, paired where it is of a difference; intervals are not corrected for their number. The
learning rate was chosen on training without compression and with pooling, and is the same for all. One
small model and one synthetic task: what holds here is a sign, and no measure, of what holds at 7B.
{progress(PAGE)}

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
the recipe, the loss of every step and a 1 or 0 for every question. {circumstances(PAGE)}
"""


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


def small_table(baseline: Results) -> str:
    rows = []
    for slug in SMALL:
        low, high = PAPER_SMALL[slug]
        rows.append(
            [
                slug,
                shown(estimate(right(baseline, slug))),
                shown(estimate(right(seeds_of(PAGE, slug)))),
                shown(gain(PAGE, baseline, slug), "+"),
                f"{low} → {high}",
                f"{high - low:+.1f}",
            ]
        )
    rows.append(["none", "", shown(estimate(right(baseline))), "", "61.8", ""])
    return table(["method", "test alone", "trained", "gain", "paper", "gain"], rows)


def group_table(baseline: Results) -> str:
    groups = [g for g in next(iter(baseline.values()))["answers"][0]["accuracy"] if g != "overall"]
    rows = []
    for name, results in {
        **{slug: seeds_of(PAGE, slug) for slug in SMALL},
        "none": baseline,
    }.items():
        found = [r["answers"][0]["accuracy"] for r in results.values()]
        rows.append(
            [name, *(f"{100 * fmean(a[g] for a in found):.1f}" if found else "–" for g in groups)]
        )
    return table(["method", *groups], rows)


def staged_table(baseline: Results) -> str:
    large, rows = counted_7b(PAGE, SCHEDULES), []
    bare = next(iter(baseline.values()))
    for name in ("baseline", *SCHEDULES):
        results = baseline if name == "baseline" else seeds_of(PAGE, name)
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
                "" if name == "baseline" else shown(to(PAGE, baseline, name), "+"),
                f"{PAPER_STAGED[name]}" if name in PAPER_STAGED else "–",
            ]
        )
    head = "schedule,compression,cost,time,7B,tokens at inference,accuracy,to baseline,paper"
    return table(head.split(","), rows)
