"""The evidence's runs on tiles: made with their own model and task, all alike but for the method."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "evidence"))

import costs
import focusllava_tiles as tiles
import found
import making
import protocol

from foveate.embedded import load
from foveate.tasks import examples
from foveate.train import RECIPES


def test_rows_on_tiles_differ_by_their_method_alone():
    cards = [run.recipe for run in tiles.RUNS.values()]
    assert {(card.model, card.data) for card in cards} == {("embedded-tiled", "patchqa-2x")}
    assert len({(card.method, str(card.arguments)) for card in cards}) == len(cards)
    assert len({str(replace(card, method="identity", arguments={})) for card in cards}) == 1
    both, twin = tiles.recipe(tiles.FOCUS), RECIPES["focusllava_patchqa_2x"]()
    assert (both.method, both.steps, both.trains) == (twin.method, twin.steps, twin.trains)


def test_a_run_on_tiles_is_trained_and_asked_there(tmp_path, monkeypatch):
    for room in (making, found):
        monkeypatch.setattr(room, "ROOT", tmp_path)
    for room in (making, protocol):
        monkeypatch.setattr(room, "QUESTIONS", 11)
    still = {"projector": 1e-30, "language": 1e-30, "compressor": 1e-30}  # moves no weight
    card = tiles.recipe("tiles_max2")
    card = replace(card, shrink=1.0, batch=2, micro_batch=2, steps=1, trains=still)
    run = protocol.Run("tiles_max2-seed0", card)
    page = protocol.Page("tiles", (run,))
    making.make(page, run)
    assert found.missing(page) == []
    (result,) = found.seeds_of(page, "tiles_max2").values()
    (answer,) = result["answers"]
    assert answer["tokens"] == 144 + 12 * 12 and len(answer["right"]) == 11

    out = tmp_path / "out" / "evidence" / "tiles" / run.name
    (told,) = (out / "answers").rglob("*.json")
    kept = json.loads(told.read_text())["answers"]
    assert [*kept] == [question.key for question in examples("patchqa-2x", 11, protocol.TEST_SEED)]
    trained = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    weights = load(name=card.model)[0].state_dict()
    assert "model.image_newline" in weights
    for name, weight in weights.items():
        torch.testing.assert_close(trained[name], weight, atol=1e-20, rtol=0)


def test_costs_are_counted_on_a_recipes_own_model():
    small, large = (
        costs.schedule_cost(replace(RECIPES[name](), batch=1)) for name in ("patchqa", "patchqa_2x")
    )
    assert large["macs"] > 5 * small["macs"]
