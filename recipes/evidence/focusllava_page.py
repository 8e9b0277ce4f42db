"""The page about FocusLLaVA on PatchQA: its tables, all of them from the results."""

from __future__ import annotations

import focusllava_pictures as pictures
import focusllava_tiles as tiles
from focusllava import (
    BALANCE,
    FOCUS,
    HALF,
    KEEP,
    LAYERS,
    LONG,
    LONGER,
    MAIN,
    PAGE,
    RATE,
    ROWS,
    SIDE,
    STEPS,
    TUNED,
)
from focusllava_found import points
from focusllava_guides import SCENES
from focusllava_names import NAMES, PAPER
from focusllava_samples import LOOKED_AT
from focusllava_tables import (
    ablation_table,
    guidance_table,
    looks_table,
    main_table,
    points_table,
    prices_table,
    scales_table,
)
from focusllava_words import in_short
from found import Results, circumstances, progress, right, seeds_of
from intervals import estimate
from protocol import QUESTIONS, ROOT
from tables import distance_table, group_table

from foveate.keeping import provenance
from foveate.patchqa.truth import LEAST

DOCS = ROOT / "docs"
PICTURE = "focusllava-questions.png"


def write() -> str:
    """Write docs/focusllava.md and its pictures from the results; returns its path.

    The picture of one scene with two questions needs the trained model: without it, what is there stays.
    """
    baseline = seeds_of(PAGE, "baseline")
    if not baseline:
        raise SystemExit("no baseline yet: run `python recipes/evidence focusllava`")
    pictures.shares(points(baseline), estimate(right(baseline)), DOCS / "focusllava-shares.svg")
    pictures.guidance(baseline, DOCS / "focusllava-guidance.svg")
    pictures.scales(DOCS / "focusllava-scales.svg")
    out = ROOT / "out" / "evidence" / PAGE.name / f"{FOCUS}-seed0"
    if (out / "model.safetensors").exists():
        pictures.questions(out, DOCS / PICTURE)
    path = DOCS / "focusllava.md"
    provenance.write(path, page(baseline))
    return str(path.relative_to(ROOT))


def page(baseline: Results) -> str:
    """The page, all of it from the results."""
    card = next(iter(baseline.values()))["asked"]["recipe"]
    rows = {row: NAMES[row] for row in MAIN}
    others = {row: name for row, name in rows.items() if row != "baseline"}
    one, other = pictures.chosen().questions
    return f"""# FocusLLaVA on PatchQA

<!-- written by `python recipes/evidence focusllava --page`; do not edit -->

FocusLLaVA (Zhu et al. 2024, arXiv:2411.14228) samples twice. Before the language model a router gives every
region of 4 × 4 tokens a scale: all of them, the maximum of every 2 × 2, or one for all (vision-guided).
Half way through the language model those tokens stay that the question looks at (text-guided). Does it
reach the full-token baseline with {PAPER} % of the tokens, as in the paper? Do busy regions get fine scales
and flat ones coarse ones? Does one scene look different to two questions? The twin is the embedded model
(2.2 M parameters, {SIDE**2} visual tokens in a grid of {SIDE} × {SIDE}, {LAYERS} decoder layers) on PatchQA.
All runs begin from one state, that of [LLaVolta's page](llavolta.md): projector and language model shrunk
to {card["shrink"]} of their weights, the rest fresh; the router begins undecided, and undecided it leaves
all tokens. Then {STEPS} steps of {card["batch"]} scenes with one question each, the same in the same order
for every run of a seed, the vision tower frozen. The rate is {card["trains"]["language"]:g}, the router's
{RATE:g}; its balance term weighs {BALANCE:g}. The text-guided sampler stands before layer {HALF}, half way;
in training it keeps a share ρ drawn for each image from 0.3 to 1, at the test {KEEP:g} unless told.
{QUESTIONS} questions of the test split answer for every row. ± is half a 95 % interval: of the mean over
seeds (Student's t) where three are there, else (†) over the questions alone, or over the scenes, paired
where it is of a difference; intervals are not corrected for their number. No code of the paper is public:
router, noise, balance term and the text-guided sampler's average are ours. One small model and one synthetic
task: what holds here is a sign, and no measure, of what holds at 8B.
{progress(PAGE)}

{in_short(baseline)}
## 1. The two samplers

"{PAPER} % of the tokens" can be counted in two ways. *Left* is the share of all visual tokens that is left
in the end, behind both samplers; *per layer* is the share that a decoder layer has, the mean over the
{LAYERS} layers. *MACs* are the language model's for a question beside the baseline's, counted on eight
questions.

{main_table(tuple(MAIN), baseline)}

Every way to answer with fewer tokens. *For the test alone*: the model that was trained without compression.
Other ρ than {KEEP:g} are asked of the same trained weights.

{points_table(points(baseline))}

![accuracy against the share of the tokens, counted in two ways](focusllava-shares.svg)

## 2. Which questions pay

Accuracy by kind of question, and its distance from the baseline.

{group_table(PAGE, rows)}

{distance_table(PAGE, others, baseline)}

## 3. Which scale where

The generator knows what every pixel shows. A patch of 8 × 8 pixels shows text (a sign or a digit) or an
object where that covers {100 * LEAST:.0f} % of it or more, or nowhere more than there, else background alone;
a region holds text if one of its patches does, else an object if one does. Of the test's first {LOOKED_AT}
pictures: the share, in per cent, of the regions of each kind at scale 1 · 2 · 4. *Tokens* are those of a
picture that enter the language model, the mean (least to most). *Area* is the share of pairs, a region
with text or objects and one without in the same picture, of which the router expects more tokens of the
first; chance has 50. *Fine on text and objects*: of the tokens at scale 1, the share, in per cent, that lies
on patches with text or objects, of how many there are.

{scales_table(ROWS)}

![scales of regions by what they hold](focusllava-scales.svg)

## 4. What the question looks at

Of {SCENES} scenes of the test, two questions each about different things. *Area* is the share of pairs, a
patch that is asked about and another, of which the question looks more at the first, in the decoder layer
before this one; chance has 50. *Other question*: the same patches while the other question is put. *Asked
kept* is the share of the asked patches that stay at this ρ, beside that of all patches. *Overlap*: of the
tokens that stay for one question, the share that stays for the other, and what chance has.

{looks_table(ROWS)}
{_picture(one, other)}
## 5. Guidance by layer

One seed; "{NAMES[FOCUS]}" but for the layer before which the question guides.

{guidance_table(baseline)}

![accuracy and MACs by guidance layer](focusllava-guidance.svg)

## 6. Router, ρ, and simpler ways

Beside the row that differs in one thing; average pooling counts positions anew, all others keep them.

{ablation_table(baseline)}

The router of "{NAMES["vision"]}" as it was trained, with a price on tokens for the test alone: what it
costs to go on to fewer tokens without training again.

{prices_table("vision", baseline)}
{_tiles()}
## 8. From the trained model, and for longer

One seed each, beside a baseline of the same beginning and length: from the embedded model as it comes,
which knows the task from all tokens and has to learn no more than to do with fewer; and for {LONGER} times
the steps.

{main_table(tuple(TUNED), seeds_of(PAGE, "baseline_tuned"))}

{main_table(tuple(LONG), seeds_of(PAGE, "baseline_long"))}

## Where the numbers come from

`python recipes/evidence focusllava` makes every run and this page; results/focusllava/ has a file a run, with
the recipe, the loss of every step, a 1 or 0 for every question, the tokens of every picture, and what the
samplers look at. {circumstances(PAGE)}
"""


def _picture(one: str, other: str) -> str:
    """The picture of one scene with two questions, where it has been made."""
    if not (DOCS / PICTURE).exists():
        return ""
    return (
        f"\nOne scene, the first of them, with two questions: above “{one}”, below “{other}” "
        f"({NAMES[FOCUS]}, seed 0).\n\n![one scene with two questions: what each sampler keeps, and what it "
        f"goes by]({PICTURE})\n"
    )


def _tiles() -> str:
    """What was found at four times as many pixels; "" before there is a baseline."""
    baseline = seeds_of(PAGE, tiles.BASELINE)
    if not baseline:
        return ""
    rows = {row: NAMES[row] for row in tiles.ROWS}
    others = {row: name for row, name in rows.items() if row != tiles.BASELINE}
    card = next(iter(baseline.values()))["asked"]["recipe"]
    return f"""
## 7. Four times as many pixels, in tiles

The same things on a canvas of 192 × 192 pixels, and the embedded model as LLaVA-NeXT: {SIDE**2} tokens of the
whole picture, which stay as they are, and a map of {2 * SIDE} × {2 * SIDE} from its tiles, which is sampled.
{card["steps"]} steps of {card["batch"]} scenes from {_begins(card.get("shrink", 1.0))}; one seed.

{main_table(tuple(rows), baseline)}

{group_table(PAGE, rows)}

{distance_table(PAGE, others, baseline)}

The router of "{NAMES["tiles_vision"]}" at a price, for the test alone.

{prices_table("tiles_vision", baseline)}

Of the map, which scale where; and of all patches, the overview's too, what the question looks at.

{scales_table(rows)}

{looks_table(rows)}
"""


def _begins(shrink: float) -> str:
    return (
        "the embedded model's weights"
        if shrink == 1
        else f"{shrink:g} of the embedded model's weights"
    )
