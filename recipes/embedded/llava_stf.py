"""Train the embedded model on with LLaVA-STF: python recipes/embedded/llava_stf.py

From all it knows at 144 tokens to 36: LLaVA-STF begins as average pooling and the old projector, and learns
with the language model. Killed at any moment, it goes on from out/embedded-llava_stf when it is run again.
Writes src/foveate/embedded/llava_stf/ with its card, and results/embedded-llava_stf-patchqa-test.json.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from card import rows
from evaluate import evaluate
from export import ship

from foveate import from_pretrained
from foveate.embedded import MODELS, PATH
from foveate.hosts import reading
from foveate.keeping.provenance import dumps, write
from foveate.tasks import records
from foveate.train import Recipe, run

NAME = "embedded-llava_stf"
STEPS, BATCH = 600, 48
RATES = {"compressor": 3e-4, "language": 3e-4}
ARGUMENTS: dict[str, Any] = {}  # the paper's proportions
QUESTIONS = 5000

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / NAME
RESULT = ROOT / "results" / f"{NAME}-patchqa-test.json"

CARD = """---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---
# The embedded model of foveate, trained with LLaVA-STF

foveate's embedded model, trained on to see with **{tokens} visual tokens** where it saw with 144: LLaVA-STF
(Tang and Shen 2025, arXiv:2506.07138) in the projector's place, {compressor:.1f} of {all:.1f} million
parameters. The vision tower and the old projector are those of the embedded model, bit for bit. It is an
instrument, not an assistant.

## Data and recipe

PatchQA v1, training split, {scenes:,} scenes with one question each: {steps:,} steps of {batch} for
connector and language model, {minutes:.0f} minutes of processor time. The connector began as average
pooling over 2 × 2 tokens and the old projector. Recipe: `recipes/embedded/llava_stf.py` in foveate's
repository. Weights are stored in bfloat16 and computed with in float32. Licences of the pictures
inside the scenes: `foveate/patchqa/ASSETS.md`.

## Use

```python
from foveate import embedded
from foveate.patchqa import PatchQA

model, processor = embedded.load(name="embedded-llava_stf")
picture = PatchQA("test")[0].pictures[0].pil()
prompt = "USER: <image>\\nWhat is the background? ASSISTANT:"
inputs = processor(images=picture, text=prompt, return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=5)[0], skip_special_tokens=True))
```

From elsewhere, `foveate.from_pretrained(folder)`. Plain transformers loads it too, without the connector:
all 144 tokens through the old projector, into a language model that has since learnt to read 36 others.

## Scores

{n:,} held-out questions of the test split, greedy `generate`, exact match, every kind weighing the same,
with 95 % intervals. "Words alone": the most frequent answer to the same words in training. "No picture":
the model itself shown plain grey.

| | accuracy | interval | words alone | no picture |
| --- | --- | --- | --- | --- |
{rows}

Command, versions and device: `results/embedded-llava_stf-patchqa-test.json`.

## Limits

- Those of the embedded model: PatchQA's words and pictures, 96 × 96 pixels, one picture at a time.
- It was trained longer than the embedded model, whose own training had ended: what the two differ by is
  not the price of fewer tokens alone. `docs/llava_stf.md` compares on equal terms.
- One seed, one run.
"""


def recipe(steps: int = STEPS, batch: int = BATCH) -> Recipe:
    """From the embedded model as it is: nothing is shrunk, unlike in the twins on PatchQA."""
    return Recipe(
        name=NAME,
        model="embedded",
        data="patchqa",
        method="llava_stf",
        arguments=ARGUMENTS,
        positions="renumbered",
        warm_start=True,
        trains=RATES,
        batch=batch,
        micro_batch=batch,
        steps=steps,
        order="sequential",
        save_every=100,
    )


def told(trained: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the card says of the training and of what came of it, weights counted."""
    model = from_pretrained(str(folder))
    base = model.model
    count = sum(p.numel() for p in model.parameters())
    return {
        "recipe": trained["recipe"],
        "steps": trained["steps"],
        "cpu_seconds": round(trained["cpu_seconds"]),
        "parameters": {
            "all": count,
            "compressor": sum(p.numel() for p in base.visual_compressor.parameters()),
        },
        "tokens": model.config.image_seq_length // base.visual_compressor.spatial.window**2,
    }


def card(result: Mapping[str, Any]) -> str:
    """The model card, from the result file alone."""
    about = result["training"]
    batch = about["recipe"]["batch"]
    return CARD.format(
        n=result["n"],
        rows=rows(result),
        tokens=about["tokens"],
        steps=about["steps"],
        batch=batch,
        scenes=about["steps"] * batch,
        minutes=about["cpu_seconds"] / 60,
        **{name: n / 1e6 for name, n in about["parameters"].items()},
    )


def make(recipe: Recipe, out: Path, questions: int) -> dict[str, Any]:
    """Train, or go on, or find what was trained; ship it, ask it, write its card. Returns the result."""
    data, shipped = records(recipe), MODELS[NAME]
    trained = run(recipe, out, data, resume=True, device="cpu", model=str(PATH))
    ship(from_pretrained(str(out)), reading.processor(PATH), shipped)
    result = evaluate(NAME, "test", questions) | {"training": told(trained, shipped)}
    write(shipped / "README.md", card(result))
    return result


def main() -> None:
    """Make it as it is shipped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="checkpoints, to go on from")
    result = make(recipe(), parser.parse_args().out, QUESTIONS)
    write(RESULT, dumps(result))
    print(json.dumps(result["accuracy"], indent=1))


if __name__ == "__main__":
    main()
