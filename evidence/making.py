"""Make one run of the evidence: train it, ask it, and write down what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evidence.costs import schedule_cost
from evidence.protocol import OWN, TEST_SEED, Ask, Page, Run, asked
from foveate import METHODS, Compressor, from_pretrained, restore, sized
from foveate.embedded import MODELS, PATH
from foveate.evaluate import Job, digest, fingerprint
from foveate.evaluate import run as answer
from foveate.hosts import reading
from foveate.keeping.held import held
from foveate.keeping.provenance import dumps, record, write
from foveate.tasks import examples, records
from foveate.train import Recipe
from foveate.train import run as trained

BATCH = 40
ELSEWHERE = 1000  # added to the seed of a first stage's scenes: they are others


def make(page: Page, run: Run) -> None:
    """Train and ask; the result is written at the end, a killed run goes on from its last checkpoint."""
    out = page.out(run)
    with held(out / "made"):
        write(page.file(run.name), dumps(_made(page, run, out)))


def _made(page: Page, run: Run, out: Path) -> dict[str, Any]:
    stages = [_spent(card, done) for card, done in train(run, out)]
    *before, last = stages or [None]
    answered = answers(page, run, out)
    measured = {name: measure(page, run, out) for name, measure in page.measures.items()}
    return {
        "asked": asked(page, run),
        **({"before": before[0]} if before else {}),
        "training": last,
        "answers": answered,
        **{name: value for name, value in measured.items() if value is not None},
        "circumstances": record(run.recipe.seed if run.recipe else 0),
    }


def train(run: Run, out: Path) -> list[tuple[Recipe, dict[str, Any]]]:
    """Train a run's recipes, each from where the one before ended; what training found of each."""
    if run.recipe is None:
        return []
    recipe, before = run.recipe, run.before
    stages = [(recipe, out, MODELS[recipe.model], records(recipe))]
    if before is not None:
        other = records(replace(before, seed=before.seed + ELSEWHERE))
        # The state was shrunk, and the connector warmed, before the first stage.
        last = replace(recipe, shrink=1.0, warm_start=False)
        first = out / "before"
        stages = [
            (before, first, MODELS[before.model], other),
            (last, out, first, records(recipe)),
        ]
    return [
        (card, trained(card, to, data, resume=True, device="cpu", model=str(place)))
        for card, to, place, data in stages
    ]


def _spent(recipe: Recipe, found: dict[str, Any]) -> dict[str, Any]:
    return {
        **{k: found[k] for k in ("steps", "seconds", "cpu_seconds")},
        "losses": [round(h["loss"], 4) for h in found["history"] if "loss" in h],
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
    trained_so = own_method(out)
    given = {**recipe.arguments, **arguments}
    other = sized(METHODS[recipe.method], reading.config(out), **given)
    other.load_state_dict(trained_so.state_dict())
    return other.eval()


def answers(page: Page, run: Run, out: Path) -> list[dict[str, Any]]:
    """Accuracy under each of the methods a run is asked with; right is a 1 or 0 for every question."""
    place, task = (PATH, "patchqa") if run.recipe is None else (out, run.recipe.data)
    model, processor = reading.model(place).eval(), reading.processor(place)
    weights, questions = fingerprint(model), examples(task, page.questions, TEST_SEED)
    found = []
    for ask in run.asks:
        slug, method = _asked_with(run, ask, model, out)
        job = Job(
            model=run.name,
            fingerprint=weights,
            task=task,
            examples=digest(questions),
            n=page.questions,
            seed=TEST_SEED,
            method=slug,
            keep=None,
            compressor=repr(method),
            batch_size=BATCH,
            positions=run.recipe.positions if _is_own(ask) and run.recipe else "original",
        )
        document = answer(model, processor, questions, job, method, out / "answers")
        restore(model)
        found.append(_told(slug, method, ask, document, [q.key for q in questions]))
    return found


def _is_own(ask: Ask) -> bool:
    return ask.method == OWN.method


def _asked_with(run: Run, ask: Ask, model: Any, out: Path) -> tuple[str, Compressor]:
    """What a run is asked with, by its name and made."""
    if not _is_own(ask):
        return ask.method, sized(METHODS[ask.method], model, **ask.arguments)
    if run.recipe is None:
        return "identity", sized(METHODS["identity"], model)
    card = run.recipe
    return card.method, changed(card, out, ask.arguments) if ask.arguments else own_method(out)


def _told(
    slug: str, method: Compressor, ask: Ask, document: dict[str, Any], keys: list[str]
) -> dict[str, Any]:
    return {
        "method": slug,
        "compressor": repr(method),
        "own": _is_own(ask),
        **({"changed": dict(ask.arguments)} if _is_own(ask) and ask.arguments else {}),
        **{k: document[k] for k in ("tokens", "accuracy", "interval", "n")},
        "equivalent_tokens": document["cost"]["equivalent_tokens"],
        "language_macs": document["cost"]["language"],
        "right": "".join(str(int(document["answers"][key]["right"])) for key in keys),
    }
