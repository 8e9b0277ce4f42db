"""One run of the evidence: train a twin recipe from the shared state, then ask it the same questions.

Every run of a seed sees the same scenes in the same order and answers the same test questions; only what
the run is about differs. All start from one state: see `shrink` in foveate.train.Recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor

from foveate import METHODS, Compressor, from_pretrained, restore, sized
from foveate.bench import CONFIGS, training_cost
from foveate.bench.count import Paper
from foveate.bench.table import Subject
from foveate.cli.tasks import records
from foveate.embedded import PATH, load
from foveate.evaluate import Job, digest, encode, fingerprint
from foveate.evaluate import run as answer
from foveate.patchqa import PatchQA
from foveate.provenance import dumps, record, write
from foveate.train import Recipe, run

ROOT = Path(__file__).parents[2]
QUESTIONS = 880  # each of the eleven kinds 80 times
TEST_SEED = 1  # not the scenes that the twin recipe was found with
BATCH = 40


@dataclass(frozen=True)
class Ask:
    """A method to answer the test questions with; "own" stands for what the run was trained with."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


OWN = Ask("own")


@dataclass(frozen=True)
class Run:
    """A recipe to train, None for the embedded model as it comes, and what is asked of it afterwards."""

    name: str
    recipe: Recipe | None
    asks: tuple[Ask, ...] = (OWN,)


def result(page: str, run_: Run) -> Path:
    """Where a run's result is."""
    return ROOT / "results" / page / f"{run_.name}.json"


def read(page: str, run_: Run) -> dict[str, Any] | None:
    """A run's result; None before it is made."""
    path = result(page, run_)
    return json.loads(path.read_text()) if path.exists() else None


def done(page: str, run_: Run) -> bool:
    """Whether a run has a result, of this very recipe and these very questions."""
    found = read(page, run_)
    return found is not None and found["asked"] == asked(run_)


def asked(run_: Run) -> dict[str, Any]:
    """What makes a result this run's."""
    card = None if run_.recipe is None else told(run_.recipe)
    asks = [[ask.method, dict(ask.arguments)] for ask in run_.asks]
    return {"recipe": card, "asks": asks, "questions": [QUESTIONS, TEST_SEED]}


def told(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields but for those that are as always: new ones make no old result another recipe's."""
    plain = Recipe(recipe.name, recipe.model, recipe.data, recipe.trains).as_dict()
    always = plain.keys() - {"name", "model", "data", "trains", "batch", "steps"}
    card = json.loads(json.dumps(recipe.as_dict()))
    return {k: v for k, v in card.items() if k not in always or v != plain[k]}


def make(page: str, run_: Run) -> None:
    """Train and ask; the result is written at the end, a killed run goes on from its last checkpoint."""
    out = ROOT / "out" / "evidence" / page / run_.name
    trained, cost = None, None
    if run_.recipe is not None:
        data = records(run_.recipe)
        trained = run(run_.recipe, out, data, resume=True, device="cpu", model=str(PATH))
        cost = schedule_cost(run_.recipe)
    document = {
        "asked": asked(run_),
        "training": trained
        and {
            **{k: trained[k] for k in ("steps", "seconds", "cpu_seconds")},
            "losses": [round(h["loss"], 4) for h in trained["history"] if "loss" in h],
            "cost": cost,
        },
        "answers": answers(run_, out),
        "circumstances": record(run_.recipe.seed if run_.recipe else 0),
    }
    write(result(page, run_), dumps(document))


def schedule_cost(recipe: Recipe) -> dict[str, Any]:
    """What a recipe's method costs in training, counted on the embedded model with one prompt."""
    model, processor = load()
    example = PatchQA("test").examples(1)[0]
    inputs = encode(processor, [(example.images, example.question)])
    subject = Subject("embedded", model, lambda batch: inputs)
    return training_cost(
        subject, sized(METHODS[recipe.method], model, **recipe.arguments)
    ).as_dict()


def counted_7b(page: str, schedules: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What LLaVolta's schedules cost in training at 7B, counted once on the config of LLaVA-1.5-7B."""
    path = ROOT / "results" / page / "cost-llava-1.5-7b.json"
    if not path.exists():
        large = Subject("llava-1.5-7b", paper=Paper(CONFIGS["llava-1.5-7b"]))
        costs = {n: training_cost(large, METHODS["llavolta"](n)).as_dict() for n in schedules}
        write(path, dumps({"costs": costs, "circumstances": record(0)}))
    return json.loads(path.read_text())["costs"]


def circumstances(page: str, runs: Sequence[Run]) -> str:
    """Where the results of a page come from, in a sentence."""
    found = [r for run_ in runs if (r := read(page, run_)) is not None]
    where = [r["circumstances"] for r in found]
    commits = sorted({w["commit"][:7] for w in where if w["commit"]})
    versions = sorted({f"torch {w['versions']['torch']}" for w in where})
    versions += sorted({f"transformers {w['versions']['transformers']}" for w in where})
    devices = sorted({f"{w['device']}, {w['threads']} thread" for w in where})
    return (
        f"{len(found)} of {len(runs)} runs are there, made at commit {', '.join(commits)} with "
        f"{', '.join(versions)} on {', '.join(devices)} a run."
    )


def own_method(out: Path) -> Compressor:
    """What a run was trained with, with the weights it was trained to."""
    model = from_pretrained(out)
    method = model.model.visual_compressor
    restore(model)
    return method.eval()


def answers(run_: Run, out: Path) -> list[dict[str, Any]]:
    """Accuracy under each of the methods a run is asked with; right is a 1 or 0 for every question."""
    place = PATH if run_.recipe is None else out
    model = AutoModelForImageTextToText.from_pretrained(place).eval()
    processor = AutoProcessor.from_pretrained(place)
    weights = fingerprint(model)
    examples = PatchQA("test", seed=TEST_SEED).examples(QUESTIONS)
    found = []
    for ask in run_.asks:
        own = ask == OWN
        slug = (run_.recipe.method if run_.recipe else "identity") if own else ask.method
        arguments = run_.recipe.arguments if own and run_.recipe else ask.arguments
        method = (
            own_method(out) if own and run_.recipe else sized(METHODS[slug], model, **arguments)
        )
        job = Job(
            model=run_.name,
            fingerprint=weights,
            task="patchqa",
            examples=digest(examples),
            n=QUESTIONS,
            seed=TEST_SEED,
            method=slug,
            keep=None,
            compressor=repr(method),
            batch_size=BATCH,
        )
        document = answer(model, processor, examples, job, method, out / "answers")
        restore(model)
        right = [document["answers"][e.key]["right"] for e in examples]
        found.append(
            {
                "method": slug,
                "compressor": repr(method),
                "own": own,
                **{k: document[k] for k in ("tokens", "accuracy", "interval", "n")},
                "equivalent_tokens": document["cost"]["equivalent_tokens"],
                "language_macs": document["cost"]["language"],
                "right": "".join(str(int(r)) for r in right),
            }
        )
    return found
