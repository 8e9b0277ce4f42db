"""The page about LLaVA-STF on PatchQA: its tables, all of them from the results."""

from __future__ import annotations

from statistics import fmean

import figures
from costs import connectors
from found import Results, circumstances, progress, right, seeds_of, to
from intervals import estimate, shown, table
from llava_stf import (
    BLOCKS,
    COLD,
    MAIN,
    OWN,
    PAGE,
    POSITIONS,
    RATE,
    STAGED,
    STEPS,
    WINDOWS,
    beside,
    side_of,
)
from llava_stf_words import NAMES, PAPER, POINTS, in_short
from protocol import QUESTIONS, ROOT
from tables import cost, distance_table, group_table, tokens

from foveate.keeping import provenance

FIGURE = "llava_stf-budgets.svg"


def write() -> str:
    """Write docs/llava_stf.md and its picture from the results; returns its path."""
    baseline = seeds_of(PAGE, "baseline")
    if not baseline:
        raise SystemExit("no baseline yet: run `python recipes/evidence llava_stf`")
    figures.budgets(lines(), estimate(right(baseline)), ROOT / "docs" / FIGURE)
    path = ROOT / "docs" / "llava_stf.md"
    provenance.write(path, page(baseline))
    return str(path.relative_to(ROOT))


def page(baseline: Results) -> str:
    """The page, all of it from the results."""
    card = next(iter(baseline.values()))["asked"]["recipe"]
    rows = {row: NAMES[row] for row in MAIN}
    return f"""# LLaVA-STF on PatchQA

<!-- written by `python recipes/evidence llava_stf --page`; do not edit -->

LLaVA-STF (Tang and Shen 2025, arXiv:2506.07138) fuses every 2 × 2 neighbours into one token (STF) and
several blocks of the vision tower into one feature (MBTF), and trains both in the projector's place. Does
25 % of the tokens reach the full-token baseline, as in the paper? Which questions pay? The twin is the
embedded model (2.2 M parameters, 144 visual tokens in a grid of 12 × 12, a tower of 5 blocks) on PatchQA.
All runs begin from one state, that of [LLaVolta's page](llavolta.md): projector and language model shrunk
to {card["shrink"]} of their weights, the rest fresh. LLaVA-STF's connectors begin warm, as that projector
with average pooling behind it, so that all rows of one budget but the cold one begin as the same function.
Then {STEPS} steps of {card["batch"]} scenes with one question each, the same in the same order for every run
of a seed, the vision tower frozen; behind fusion and pooling the positions are {POSITIONS}. The rate is
{card["trains"]["language"]:g}, of the connectors {RATE:g}: their layers read four times as many channels.
That, the warm start and the number of steps were chosen in a few trial runs of seed 0, on half of the
questions below. {QUESTIONS} questions of the test split answer for every row. ± is half a 95 % interval:
of the mean over seeds (Student's t) where three are there, else (†) over the questions alone, paired where
it is of a difference; intervals are not corrected for their number. One small model and one synthetic
task: what holds here is a sign, and no measure, of what holds at 7B.
{progress(PAGE)}

{in_short(baseline)}
## 1. A quarter of the tokens

*Parameters* and *MMAC* are the connector's: all that an image passes between the tower and the language
model. *Cost* is the forward of the whole model over training, relative to no compression. These rows are
not to be compared with those of README, whose model was trained to its end.

{main_table(baseline)}

## 2. Which questions pay

Accuracy by kind of question, and its distance from the baseline.

{group_table(PAGE, rows)}

{distance_table(PAGE, {row: name for row, name in rows.items() if row != "baseline"}, baseline)}

## 3. Beside the paper

Distance from the full-token baseline in points; the paper's are quoted, of LLaVA-1.5-7B at 144 of 576
tokens, and their mean is ours.

{paper_table(baseline)}

## 4. Windows, blocks and beginnings

One seed each, beside the row that differs in one thing.

{ablation_table(baseline)}

![accuracy against tokens, a line for each method](llava_stf-budgets.svg)

## Where the numbers come from

`python recipes/evidence llava_stf` makes every run and this page; results/llava_stf/ has a file a run, with
the recipe, the loss of every step and a 1 or 0 for every question. {circumstances(PAGE)}
"""


def lines() -> dict[str, dict[int, tuple[float, object]]]:
    """Tokens and accuracy by side of the windows, of pooling and LLaVA-STF."""
    found: dict[str, dict] = {}
    for row in ("pool", OWN, *WINDOWS):
        if results := seeds_of(PAGE, row):
            point = tokens(results), estimate(right(results))
            found.setdefault(NAMES[row.partition("_k")[0]], {})[side_of(row)] = point
    return found


def main_table(baseline: Results) -> str:
    counted, rows = connectors(PAGE), []
    for row in MAIN:
        results, size = seeds_of(PAGE, row), counted[row]
        rows.append(
            [
                NAMES[row],
                f"{tokens(results):.0f}" if results else "–",
                f"{size['parameters']:,}",
                f"{size['macs'] / 1e6:.1f}",
                f"{cost(results, baseline):.2f}" if results else "–",
                shown(estimate(right(results))),
                "" if row == "baseline" else shown(to(PAGE, baseline, row), "+"),
                "" if row in ("baseline", "pool") else against_pool(row),
            ]
        )
    head = "connector,tokens,parameters,MMAC,cost,accuracy,to baseline,to pool"
    return table(head.split(","), rows)


def against_pool(row: str) -> str:
    return shown(to(PAGE, seeds_of(PAGE, "pool"), row), "+")


def paper_table(baseline: Results) -> str:
    rows = []
    for row in ("pool", OWN):
        far = [a - b for a, b in zip(PAPER[row], PAPER["baseline"], strict=True)]
        mine = shown(to(PAGE, baseline, row), "+")
        rows.append([NAMES[row], *(f"{d:+.1f}" for d in far), f"{fmean(far):+.1f}", mine])
    return table(["to baseline", *POINTS, "paper's mean", "PatchQA"], rows)


def ablation_table(baseline: Results) -> str:
    counted, rows = connectors(PAGE), []
    for row in (*WINDOWS, *BLOCKS, COLD, *STAGED):
        results, other = (
            seeds_of(PAGE, row),
            "pool" if row in ("pool_k3", "pool_k4") else beside(row),
        )
        rows.append(
            [
                NAMES[row],
                f"{tokens(results):.0f}" if results else "–",
                f"{counted[row]['parameters']:,}",
                f"{cost(results, baseline):.2f}" if results else "–",
                shown(estimate(right(results))),
                shown(to(PAGE, baseline, row), "+"),
                f"{shown(to(PAGE, seeds_of(PAGE, other), row), '+')} ({NAMES[other]})",
            ]
        )
    return table(
        ["row", "tokens", "parameters", "cost", "accuracy", "to baseline", "to its neighbour"], rows
    )
