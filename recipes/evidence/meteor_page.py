"""The page about LLaVA-Meteor on PatchQA: its tables, all of them from the results."""

from __future__ import annotations

import figures
from finding import ASKED
from found import Results, circumstances, progress, right, seeds_of
from intervals import estimate
from meteor import (
    BLOCK,
    BUDGETS,
    EXPERTS,
    KEEP,
    LENT,
    MAIN,
    METEOR,
    PAGE,
    RANDOM_K,
    REST,
    ROWS,
    SCANS,
    SIDE,
    STEPS,
    selects,
)
from meteor_finds import finds_table, group_table
from meteor_tables import ablation_table, alone_table, budget_table, lines, main_table
from meteor_words import NAMES, in_short
from protocol import QUESTIONS, ROOT
from tables import distance_table
from tables import group_table as accuracy_table

from foveate.keeping import provenance
from foveate.patchqa.truth import LEAST

FIGURE = "meteor-budgets.svg"


def write() -> str:
    """Write docs/meteor.md and its picture from the results; returns its path."""
    baseline = seeds_of(PAGE, "baseline")
    if not baseline:
        raise SystemExit("no baseline yet: run `python recipes/evidence meteor`")
    level = estimate(right(baseline))
    figures.budgets(lines(), level, ROOT / "docs" / FIGURE, says="{} %")
    path = ROOT / "docs" / "meteor.md"
    provenance.write(path, page(baseline))
    return str(path.relative_to(ROOT))


def page(baseline: Results) -> str:
    """The page, all of it from the results."""
    card = next(iter(baseline.values()))["asked"]["recipe"]
    rows = {row: NAMES[row] for row in MAIN}
    others = {row: name for row, name in rows.items() if row != "baseline"}
    changed = [row for row in (*SCANS, *REST) if row not in LENT]
    return f"""# LLaVA-Meteor on PatchQA

<!-- written by `python recipes/evidence meteor --page`; do not edit -->

LLaVA-Meteor (Li et al. 2025, arXiv:2505.11945) fuses first and selects then: in the projector's place state
spaces run over the whole image, the question before it (Flash Global Fusion); of what comes out, two
experts choose the tokens that stay, one by the class token's attention, one by similarity to the question
(Visual-Native Selection). Are 75 to 95 % fewer tokens comparable, as in the paper? For which questions not?
Does the native expert find what is asked? The twin is the embedded model (2.2 M parameters, {SIDE**2} visual
tokens in a grid of {SIDE} × {SIDE}) on PatchQA. All runs begin from one state, that of
[LLaVolta's page](llavolta.md): projector and language model shrunk to {card["shrink"]} of their weights,
the rest fresh. The fusion begins warm, as that projector exactly, so that all rows of one budget and one
selection but the cold one begin as the same function. Then {STEPS} steps of {card["batch"]} scenes with one
question each, the same in the same order for every run of a seed, the vision tower frozen; kept tokens keep
their positions, pooling counts them anew. The rate is {card["trains"]["language"]:g} throughout. The twin's
fusion is small: one block, {BLOCK["states"]} states, as wide as the features. {QUESTIONS} questions of the
test split answer for every row. ± is half a 95 % interval: of the mean over seeds (Student's t) where three
are there, else (†) over the questions alone, paired where it is of a difference; intervals are not corrected
for their number. No code of the paper is public: operator, sizes and the experts' balance are ours.
One small model and one synthetic task: what holds here is a sign, and no measure, of what holds at 7B.
{progress(PAGE)}

{in_short(baseline)}
## 1. A quarter of the tokens

*Parameters* and *MMAC* are the connector's and the selection's: all that an image passes between the tower
and the language model, matrix products alone. *Cost* is the forward of the whole model over training,
relative to no compression.

{main_table(baseline)}

## 2. Which questions pay

Accuracy by kind of question, and its distance from the baseline.

{accuracy_table(PAGE, rows)}

{distance_table(PAGE, others, baseline)}

{distance_table(PAGE, {row: NAMES[row] for row in BUDGETS}, baseline)}

## 3. Fewer still

*Trained* at that budget; *for the test alone*: the weights that were trained at {KEEP} tokens, asked with
fewer. "{NAMES[RANDOM_K]}" is one training for all three budgets.

{budget_table(baseline)}

![accuracy against tokens, a line for each method](meteor-budgets.svg)

## 4. The two experts

Trained with one of them, or with both put together in another way; and the weights of {NAMES[METEOR]}, and of
the projector with selection, asked with one expert alone.

{ablation_table(baseline, EXPERTS)}

{alone_table()}

## 5. What selection finds

The generator knows the pixels of what a question asks about: the sign, the digit, the objects it names. A
patch of 8 × 8 pixels is asked about where one of them covers {100 * LEAST:.0f} % of it or more, or nowhere
more than there. Of the test's questions that ask about something there is, {ASKED} answer: *kept* is the
share of the asked patches that the selection leaves, beside what chance leaves and what each expert would
alone, with the same weights at the same K. *Area* is the share of pairs, an asked patch and another, that
an expert puts in the right order; chance has 50. *Another question* is the next one, of another picture.

{finds_table({row: NAMES[row] for row in ROWS if selects(row)})}

{group_table()}

## 6. Scans, blocks and beginnings

One seed each, beside the row that differs in one thing.

{ablation_table(baseline, changed)}

## Where the numbers come from

`python recipes/evidence meteor` makes every run and this page; results/meteor/ has a file a run, with the
recipe, the loss of every step, a 1 or 0 for every question, and what selection finds. {circumstances(PAGE)}
"""
