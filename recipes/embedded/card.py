"""Write the embedded model's card from its result file: python recipes/embedded/card.py"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "results/embedded-patchqa-test.json"
CARD = ROOT / "src/foveate/embedded/model/README.md"
TEXT = """---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---
# The embedded model of foveate

A real, small LLaVA (`LlavaForConditionalGeneration`): CLIP tower of 5 blocks, two-layer projector,
Llama of 6 layers, all 128 wide, 2.2 million parameters, **144 visual tokens** for an image of
96 × 96 pixels. It comes with the package so that what token compression costs can be measured on
any laptop in minutes. It is an instrument, not an assistant.

## Data and recipe

PatchQA v1, training split, and nothing else: procedural scenes with shapes, signs and handwritten
digits over photo and drawn textures, questions from a vocabulary of 118 words.
Recipe: `recipes/embedded` in foveate's repository: about {minutes} minutes on two shared CPU cores,
{scenes:,} scenes in all. Weights are stored in bfloat16 and computed with in float32.
Licences of the pictures inside the scenes: `foveate/patchqa/ASSETS.md`.

## Use

```python
from foveate import embedded
from foveate.patchqa import PatchQA

model, processor = embedded.load()
picture = PatchQA("test")[0].pictures[0].pil()
prompt = "USER: <image>\\nWhat is the background? ASSISTANT:"
inputs = processor(images=picture, text=prompt, return_tensors="pt")
print(processor.decode(model.generate(**inputs, max_new_tokens=5)[0], skip_special_tokens=True))
```

## Scores

{n:,} held-out questions of the test split (other texture crops, other handwritten digits, other
glyph styles), greedy `generate`, exact match, every kind weighing the same, with 95 % intervals.
"Words alone": the most frequent answer to the same words in training. "No picture": the model
itself shown plain grey.

| | accuracy | interval | words alone | no picture |
| --- | --- | --- | --- | --- |
{rows}

Command, versions and device: `results/embedded-patchqa-test.json`.

## Limits

- It knows PatchQA's words and pictures, 96 × 96 pixels, one picture at a time, normal text. The
  harder variants (several pictures, tiny text, 192 pixels) were not in its training; the words for
  them are in the vocabulary.
- Its class token was trained to say what a scene holds: methods that select by its attention are
  favoured more than they would be on CLIP.
- The projector reads the tower's first hidden state too, so a token carries its own pixels and
  place besides what the tower made of them.
- One seed, one run.
"""


def rows(result: dict) -> str:
    """The table: overall, groups, kinds."""
    seen, blind, prior = (
        result["accuracy"],
        result["model_without_picture"],
        result["language_prior"],
    )
    lines = [row("**overall**", seen["overall"], prior["overall"], blind["overall"])]
    lines += [row(f"*{g}*", part, None, blind["groups"][g]) for g, part in seen["groups"].items()]
    lines += [row(k, part, prior[k], blind["kinds"][k]) for k, part in seen["kinds"].items()]
    return "\n".join(lines)


def row(name: str, part: dict, prior: float | None, blind: dict) -> str:
    """One line of the table."""
    words = "" if prior is None else f"{prior:.3f}"
    between = f"{part['low']:.3f} to {part['high']:.3f}"
    return f"| {name} | {part['accuracy']:.3f} | {between} | {words} | {blind['accuracy']:.3f} |"


if __name__ == "__main__":
    result = json.loads(RESULT.read_text())
    log = (ROOT / "checkpoints/embedded.jsonl").read_text().splitlines()
    last, first = json.loads(log[-1]), json.loads(log[0])
    minutes = round((last["time"] - first["time"]) / 60 + 3)
    card = TEXT.format(n=result["n"], rows=rows(result), minutes=minutes, scenes=last["scenes"])
    CARD.write_text(card)
