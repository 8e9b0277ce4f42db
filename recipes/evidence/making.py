"""Make one run of the evidence: train it, ask it, and write down what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from costs import schedule_cost
from found import file
from protocol import OWN, QUESTIONS, ROOT, TEST_SEED, Ask, Page, Run, asked

from foveate import METHODS, Compressor, from_pretrained, restore, sized
from foveate.embedded import MODELS, PATH
from foveate.evaluate import Job, digest, fingerprint
from foveate.evaluate import run as answer
from foveate.hosts import reading
from foveate.keeping.held import held
from foveate.keeping.provenance import dumps, record, write
from foveate.tasks import examples, records
from foveate.train import Recipe, run

BATCH = 40
ELSEWHERE = 1000  # added to the seed of a first stage's scenes: they are others


def make(page: Page, run_: Run) -> None:
    """Train and ask; the result is written at the end, a killed run goes on from its last checkpoint."""
    out = ROOT / "out" / "evidence" / page.name / run_.name
    with held(out / "made"):
        _make(page, run_, out)


def _make(page: Page, run_: Run, out: Path) -> None:
    stages = [_spent(card, done) for card, done in train(run_, out)]
    *before, last = stages or [None]
    told = answers(run_, out)
    measured = {name: measure(run_, out) for name, measure in page.measures.items()}
    document = {
        "asked": asked(run_),
        **({"before": before[0]} if before else {}),
        "training": last,
        "answers": told,
        **{name: value for name, value in measured.items() if value is not None},
        "circumstances": record(run_.recipe.seed if run_.recipe else 0),
    }
    write(file(page.name, run_.name), dumps(document))


def train(run_: Run, out: Path) -> list[tuple[Recipe, dict[str, Any]]]:
    """Train a run's recipes, each from where the one before ended; what training found of each."""
    if run_.recipe is None:
        return []
    recipe, before = run_.recipe, run_.before
    stages = [(recipe, out, MODELS[recipe.model], records(recipe))]
    if before is not None:
        other = records(replace(before, seed=before.seed + ELSEWHERE))
        # The state was shrunk, and the connector warmed, before the first stage.
        last = replace(recipe, shrink=1.0, warm_start=False)
        own, first = stages[0][3], out / "before"
        stages = [(before, first, MODELS[before.model], other), (last, out, first, own)]
    return [
        (card, run(card, to, data, resume=True, device="cpu", model=str(place)))
        for card, to, place, data in stages
    ]


def _spent(recipe: Recipe, trained: dict[str, Any]) -> dict[str, Any]:
    return {
        **{k: trained[k] for k in ("steps", "seconds", "cpu_seconds")},
        "losses": [round(h["loss"], 4) for h in trained["history"] if "loss" in h],
        "cost": schedule_cost(recipe),
    }


def own_method(out: Path) -> Compressor:
    """What a run was trained with, with the weights it was trained to."""
    model = from_pretrained(out)
    method = model.model.visual_compressor
    restore(model)
    return method.eval()


def changed(recipe: Recipe, out: Path, arguments: Mapping[str, Any]) -> Compressor:
    """What a recipe was trained with, with its weights, but for these arguments."""
    own = own_method(out)
    given = {**recipe.arguments, **arguments}
    other = sized(METHODS[recipe.method], reading.config(out), **given)
    other.load_state_dict(own.state_dict())
    return other.eval()


def answers(run_: Run, out: Path) -> list[dict[str, Any]]:
    """Accuracy under each of the methods a run is asked with; right is a 1 or 0 for every question."""
    place, task = (PATH, "patchqa") if run_.recipe is None else (out, run_.recipe.data)
    model = reading.model(place).eval()
    processor = reading.processor(place)
    weights = fingerprint(model)
    questions = examples(task, QUESTIONS, TEST_SEED)
    found = []
    for ask in run_.asks:
        slug, method = _asked_with(run_, ask, model, out)
        own = ask.method == OWN.method
        job = Job(
            model=run_.name,
            fingerprint=weights,
            task=task,
            examples=digest(questions),
            n=QUESTIONS,
            seed=TEST_SEED,
            method=slug,
            keep=None,
            compressor=repr(method),
            batch_size=BATCH,
            positions=run_.recipe.positions if own and run_.recipe else "original",
        )
        document = answer(model, processor, questions, job, method, out / "answers")
        restore(model)
        found.append(_told(slug, method, ask, document, [q.key for q in questions]))
    return found


def _asked_with(run_: Run, ask: Ask, model: Any, out: Path) -> tuple[str, Compressor]:
    """What a run is asked with, by its name and made."""
    if ask.method != OWN.method:
        return ask.method, sized(METHODS[ask.method], model, **ask.arguments)
    if run_.recipe is None:
        return "identity", sized(METHODS["identity"], model)
    card = run_.recipe
    return card.method, changed(card, out, ask.arguments) if ask.arguments else own_method(out)


def _told(
    slug: str, method: Compressor, ask: Ask, document: dict[str, Any], keys: list[str]
) -> dict[str, Any]:
    own = ask.method == OWN.method
    return {
        "method": slug,
        "compressor": repr(method),
        "own": own,
        **({"changed": dict(ask.arguments)} if own and ask.arguments else {}),
        **{k: document[k] for k in ("tokens", "accuracy", "interval", "n")},
        "equivalent_tokens": document["cost"]["equivalent_tokens"],
        "language_macs": document["cost"]["language"],
        "right": "".join(str(int(document["answers"][key]["right"])) for key in keys),
    }
