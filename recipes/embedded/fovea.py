"""Train the embedded model on with Fovea: python recipes/embedded/fovea.py

From all it knows at 144 tokens to any number of them: each image draws its budget, and the same weights'
answers with all tokens teach. A long stage at one rate, then a shorter one, that takes it to nothing and
splits by sharper weights, then one at half the rate, in which the whole picture counts twice. Killed at
any moment, it goes on from out/embedded-fovea when it is run again. Writes src/foveate/embedded/fovea/, of
whose weights those that did not learn stay in the folder beside it, with its card, and
results/embedded-fovea-patchqa-test.json.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from card import rows
from evaluate import evaluate
from export import share, ship

from foveate import from_pretrained
from foveate.embedded import MODELS, PATH
from foveate.hosts import reading
from foveate.keeping.provenance import dumps, write
from foveate.tasks import records
from foveate.train import RECIPES, Recipe, run

NAME = "embedded-fovea"
STEPS = (2000, 1500, 1200)
BUDGETS = (72, 36, 18, 9, 4)
QUESTIONS = 5000

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / NAME
RESULT = ROOT / "results" / f"{NAME}-patchqa-test.json"

CARD = """---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---
# The embedded model of foveate, trained with Fovea

foveate's embedded model, trained on to see with **any number of visual tokens**, {tokens} unless told: Fovea
splits the picture where the question says detail pays, and every cell is one token. The vision tower is that
of the embedded model, whose weights `model.safetensors.index.json` finds in the folder beside this one; move
the two together, or `save_pretrained` to a folder of its own. It is an instrument, not an assistant.

## Data and recipe

PatchQA v1, training split, {scenes:,} scenes with one question each: {steps} steps of {batch},
{hours:.1f} hours of processor time. Each image drew its budget between a twentieth and all of its tokens, and
the same weights' answer with all tokens taught the compressed one. Recipe: `recipes/embedded/fovea.py` in
foveate's repository. Weights are stored in bfloat16 and computed with in float32. Licences of the pictures
inside the scenes: `foveate/patchqa/ASSETS.md`.

## Use

```python
from foveate import compress, embedded
from foveate.patchqa import PatchQA

model, processor = embedded.load(name="embedded-fovea")
compress(model, model.model.visual_compressor.but(keep=9))  # or any other number
picture = PatchQA("test")[0].pictures[0].pil()
prompt = "USER: <image>\\nWhat is the background? ASSISTANT:"
inputs = processor(images=picture, text=prompt, return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=5)[0], skip_special_tokens=True))
```

From elsewhere, `foveate.from_pretrained(folder)`. Plain transformers loads it too, without the tree: all 144
tokens, which it was trained to read as well.

## Scores

{n:,} held-out questions of the test split, greedy `generate`, exact match, every kind weighing the same.

{budgets}

With {tokens} tokens, and 95 % intervals. "Words alone": the most frequent answer to the same words in
training. "No picture": the model itself shown plain grey.

| | accuracy | interval | words alone | no picture |
| --- | --- | --- | --- | --- |
{rows}

Command, versions and device: `results/embedded-fovea-patchqa-test.json`.

## Limits

- Those of the embedded model: PatchQA's words and pictures, 96 × 96 pixels, one picture at a time.
- It was trained longer than the embedded model, whose own training had ended: what the two differ by is
  not the price of fewer tokens alone. `docs/fovea.md` compares on equal terms.
- One seed, one run.
"""


def recipes(steps: Sequence[int] = STEPS, batch: int | None = None) -> tuple[Recipe, ...]:
    """The long stage; other scenes, asked for more of what is lost first; those of the whole picture."""
    twin = RECIPES["fovea_patchqa"]()
    blunt = {name: value for name, value in twin.arguments.items() if name != "focus"}
    size = {} if batch is None else {"batch": batch, "micro_batch": batch}
    long, short, final = steps
    first = replace(
        twin,
        name=f"{NAME}-pretrain",
        steps=long,
        arguments=blunt,
        scheduler="constant_with_warmup",
        bf16=True,
        save_every=100,
        log_every=10,
        **size,
    )
    second = replace(
        first,
        name=NAME,
        data="patchqa-practice",
        steps=short,
        scheduler="linear",
        arguments=twin.arguments,
        seed=1,
    )
    slower = {group: rate / 2 for group, rate in twin.trains.items()}
    last = replace(second, name=f"{NAME}-full", steps=final, trains=slower, full=1.0, seed=2)
    return first, second, last


def make(
    stages: Sequence[Recipe],
    out: Path,
    questions: int,
    shipped: Path = MODELS[NAME],
    budgets: Sequence[int] = BUDGETS,
) -> dict[str, Any]:
    """Train, or go on, or find what was trained; ship it, ask it, write its card. Returns the result."""
    places, found = [PATH, *(out / recipe.name for recipe in stages)], []
    for recipe, begin, end in zip(stages, places, places[1:], strict=False):
        data = records(recipe)
        found.append(run(recipe, end, data, resume=True, device="cpu", model=str(begin)))
    ship(from_pretrained(str(places[-1])), reading.processor(PATH), shipped)
    share(shipped, PATH)
    result = evaluate(NAME, "test", questions, budgets) | {"training": told(found, shipped)}
    write(shipped / "README.md", card(result))
    return result


def told(stages: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """What the card says of the training."""
    return {
        "recipes": [stage["recipe"] for stage in stages],
        "steps": [stage["steps"] for stage in stages],
        "cpu_seconds": round(sum(stage["cpu_seconds"] for stage in stages)),
        "keep": from_pretrained(str(folder)).model.visual_compressor.keep,
    }


def card(result: Mapping[str, Any]) -> str:
    """The model card, from the result file alone."""
    about = result["training"]
    batch = about["recipes"][0]["batch"]
    return CARD.format(
        n=result["n"],
        rows=rows(result),
        budgets=by_budget(result["budgets"]),
        tokens=about["keep"],
        steps=", then ".join(f"{steps:,}" for steps in about["steps"]),
        batch=batch,
        scenes=sum(about["steps"]) * batch,
        hours=about["cpu_seconds"] / 3600,
    )


def by_budget(scores: Mapping[str, Any]) -> str:
    """A row for each budget: overall with its interval, and the groups."""
    groups = list(next(iter(scores.values()))["groups"])
    head = ["tokens", "accuracy", "interval", *groups]
    lines = [f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}"]
    for tokens, score in scores.items():
        whole = score["overall"]
        cells = [f"{whole['accuracy']:.3f}", f"{whole['low']:.3f} to {whole['high']:.3f}"]
        cells += [f"{score['groups'][group]['accuracy']:.3f}" for group in groups]
        lines.append(f"| {' | '.join([tokens, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    """Make it as it is shipped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="checkpoints, to go on from")
    result = make(recipes(), parser.parse_args().out, QUESTIONS)
    write(RESULT, dumps(result))
    print(json.dumps({n: s["overall"] for n, s in result["budgets"].items()}, indent=1))


if __name__ == "__main__":
    main()
