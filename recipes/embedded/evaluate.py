"""Ask a shipped model held-out questions: python recipes/embedded/evaluate.py

Greedy `generate` of the Hugging Face model, with its compressor if it has one, exact match, every kind
of question weighing the same; beside it what the question's words alone give. Writes
results/<model>-patchqa-<split>.json.
"""

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from PIL import Image

from foveate import compress, embedded
from foveate.evaluate import replies
from foveate.keeping.provenance import commit, dumps, write
from foveate.patchqa import GROUPS, KINDS, VERSION, Example, PatchQA, language_prior

BATCH = 50
GREY = Image.new("RGB", (96, 96), (128, 128, 128))


def answers(model, processor, examples: list[Example], blind: bool = False) -> list[str]:
    """The model's greedy answers; blind, every picture is plain grey.

    A compressor that reads the question is told the question alone, as by every other door.
    """
    said = []
    for start in range(0, len(examples), BATCH):
        chunk = examples[start : start + BATCH]
        asks = [([GREY] if blind else e.images[:1], e.question) for e in chunk]
        said += [reply.text for reply in replies(model, processor, asks, max_new_tokens=5)]
    return said


def report(examples: list[Example], said: list[str]) -> dict:
    """Accuracy with 95 % Wilson intervals by kind; groups and overall are means over kinds."""
    hits = defaultdict(list)
    for example, answer in zip(examples, said, strict=True):
        hits[example.kind].append(answer == example.answer)
    kinds = {kind: interval(sum(hits[kind]), len(hits[kind])) for kind in KINDS}
    groups = {
        group: mean_of([kinds[kind] for kind in members]) for group, members in GROUPS.items()
    }
    return {"overall": mean_of(list(kinds.values())), "groups": groups, "kinds": kinds}


def interval(right: int, n: int) -> dict:
    """Share with its Wilson interval."""
    z, share = 1.96, right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return shares(share, middle - half, middle + half, n)


def mean_of(parts: list[dict]) -> dict:
    """Mean over kinds; the interval from the sum of their binomial variances."""
    share = sum(part["accuracy"] for part in parts) / len(parts)
    variance = sum(p["accuracy"] * (1 - p["accuracy"]) / p["n"] for p in parts) / len(parts) ** 2
    half = 1.96 * variance**0.5
    n = sum(part["n"] for part in parts)
    return shares(share, share - half, min(share + half, 1), n)


def shares(accuracy: float, low: float, high: float, n: int) -> dict:
    """The four numbers of a result."""
    parts = {"accuracy": accuracy, "low": low, "high": high}
    return {name: round(value, 4) for name, value in parts.items()} | {"n": n}


def scores(model, processor, examples: list[Example], budgets: Sequence[int]) -> dict:
    """With all tokens, and with each of these numbers of them."""
    trained, found = model.model.visual_compressor, {}
    for keep in (1.0, *budgets):
        compress(model, trained.but(keep=keep))
        tokens = str(model.config.image_seq_length if keep == 1.0 else keep)
        found[tokens] = report(examples, answers(model, processor, examples))
    compress(model, trained)
    return {"budgets": found}


def evaluate(name: str, split: str, n: int, budgets: Sequence[int] = ()) -> dict:
    """The result of one of `embedded.MODELS`: its scores, what they are worth, and how they were made.

    budgets: of one that serves any, scores with all tokens and with each of these.
    """
    task = PatchQA(split)
    model, processor = embedded.load(name=name)
    examples = task.examples(n)
    start = time.time()
    seen = report(examples, answers(model, processor, examples))
    seconds = time.time() - start
    spread = scores(model, processor, examples, budgets) if budgets else {}
    few = examples[:1100]
    prior = {kind: round(share, 4) for kind, share in language_prior(task, n).items()}
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "model": name,
        "task": f"PatchQA v{VERSION}, {split} split, seed {task.seed}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "device": f"CPU, {torch.get_num_threads()} threads, float32",
        "n": n,
        "seconds": round(seconds, 1),
        "accuracy": seen,
        **spread,
        "language_prior": prior,
        "model_without_picture": report(few, answers(model, processor, few, blind=True)),
    }


def main() -> None:
    """Evaluate and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded", choices=embedded.MODELS)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = evaluate(options.model, options.split, options.n)
    out = options.out or Path(f"results/{options.model}-patchqa-{options.split}.json")
    write(out, dumps(result))
    print(json.dumps(result["accuracy"], indent=1))


if __name__ == "__main__":
    main()
