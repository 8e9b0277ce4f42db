"""The evidence pages say what their results say, and their runs are runs."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "evidence"))

import found  # noqa: E402
import intervals  # noqa: E402
import llavolta  # noqa: E402
import llavolta_page  # noqa: E402
import llavolta_words  # noqa: E402
import make  # noqa: E402
import protocol  # noqa: E402

from foveate import METHODS, compress, sized  # noqa: E402
from foveate.embedded import PATH, load  # noqa: E402
from foveate.train import RECIPES  # noqa: E402
from foveate.train.model import build  # noqa: E402


def test_the_page_is_what_the_results_make_of_it(tmp_path, monkeypatch):
    runs = llavolta.PAGE
    bare, baseline = found.read(runs, runs.runs[0]), found.seeds_of(runs, "baseline")
    page = llavolta_page.page(bare, baseline)
    assert (ROOT / "docs" / "llavolta.md").read_text(encoding="utf-8") == page
    other = json.loads(json.dumps(baseline))
    answer = other["0"]["answers"][0]
    answer["right"] = "0" * len(answer["right"])
    assert llavolta_page.page(bare, {int(seed): of for seed, of in other.items()}) != page


def test_every_result_is_of_a_run_and_of_its_recipe():
    names = {run.name: run for run in llavolta.PAGE.runs}
    assert len(names) == len(llavolta.PAGE.runs)
    for path in (ROOT / "results" / "llavolta").glob("*.json"):
        if path.stem != "cost-llava-1.5-7b":
            assert found.done(llavolta.PAGE, names[path.stem]), path.name
            result = json.loads(path.read_text())
            for answer in result["answers"]:
                assert len(answer["right"]) == protocol.QUESTIONS
                share = answer["right"].count("1") / protocol.QUESTIONS
                assert answer["accuracy"]["overall"] == pytest.approx(share)


def test_runs_differ_in_what_they_are_about():
    """Equal scenes, steps and beginnings: of one seed only the method differs; and all can be built."""
    config, seen = AutoConfig.from_pretrained(PATH), {}
    for run in llavolta.PAGE.runs[1:]:
        card = run.recipe.as_dict()
        build(run.recipe, config)
        rest = {k: v for k, v in card.items() if k not in ("name", "method", "arguments")}
        assert seen.setdefault((run.recipe.seed, run.recipe.steps), rest) == rest
    assert {seed for seed, _ in seen} == set(llavolta.SEEDS)


def test_budgets_of_the_small_table_are_one():
    for ask in llavolta.PAGE.runs[1].asks[1:]:
        card = found.read(llavolta.PAGE, llavolta.PAGE.runs[1])
        answer = next(a for a in card["answers"] if a["method"] == ask.method)
        assert answer["tokens"] == 24


def test_intervals():
    seeds = {0: [1, 0, 1, 1], 1: [1, 1, 1, 1], 2: [0, 0, 1, 1]}
    found = intervals.estimate(seeds)
    assert found.mean == pytest.approx(0.75) and found.over_seeds
    assert found.half == pytest.approx(4.303 * 0.25 / 3**0.5)
    one = intervals.estimate({0: seeds[0]})
    assert one.mean == 0.75 and one.half == pytest.approx(1.96 * 0.5 / 2) and "†" in one.text()
    gap = intervals.against(seeds, {0: [0, 0, 0, 0], 1: [1, 1, 1, 1]})
    assert gap == {0: [1, 0, 1, 1], 1: [0, 0, 0, 0]}
    assert intervals.estimate({}) is None and intervals.shown(None) == "–"
    assert intervals.Estimate(0.02, 0.01, True).side == 1
    assert intervals.Estimate(-0.02, 0.01, True).side == -1
    assert intervals.Estimate(-0.02, 0.03, True).side == 0


def test_what_a_run_was_trained_with_comes_back(tmp_path):
    """With its weights, and by the name that its answers are kept under."""
    model, _ = load()
    method = sized(METHODS["depthwise"], model)
    with torch.no_grad():
        for weight in method.parameters():
            weight.normal_()
    compress(model, method).save_pretrained(tmp_path)
    back = make.own_method(tmp_path)
    assert repr(back) == repr(method)
    want, found = method.state_dict(), back.state_dict()
    assert want and want.keys() == found.keys()
    assert all(torch.equal(want[name], found[name]) for name in want)


@pytest.mark.parametrize("name", ["baseline-seed0", *(f"{s}-seed0" for s in llavolta.SCHEDULES)])
def test_a_run_is_named_the_same_once_it_is_saved(name, tmp_path):
    run = next(run for run in llavolta.PAGE.runs if run.name == name)
    model, _ = load()
    method = build(run.recipe, model.config)
    compress(model, method).save_pretrained(tmp_path)
    assert repr(make.own_method(tmp_path)) == repr(method)


def test_words_do_not_say_more_than_intervals():
    def gain(mean, seeds=3):
        return intervals.Estimate(mean, 0.02, seeds > 2, seeds)

    say = llavolta_words.compared
    assert (
        say({"pool": gain(0.01), "fastv": gain(0.02)}, "fastv") == "helps it about as much as fastv"
    )
    assert say({"pool": gain(0.01), "fastv": gain(0.06)}, "fastv") == "helps fastv more"
    assert say({"pool": gain(0.06), "fastv": gain(0.01)}, "pool").endswith("as in the paper")
    assert say({"pool": gain(0.03), "fastv": gain(0.01)}, "pool").endswith("as much as fastv")
    begins = [llavolta_words.seen_on(gain(0.1, seeds)) for seeds in (1, 2, 3)]
    assert begins == ["On one seed, t", "On two seeds, t", "T"]


def test_a_first_stage_begins_where_one_recipe_alone_does(tmp_path):
    """Its own part shrunk by itself and the rest ahead: weight for weight the shared state."""
    still = dict.fromkeys(("projector", "language", "compressor"), 1e-30)  # moves no weight
    alone = replace(RECIPES["patchqa"](), trains=still, batch=1, micro_batch=1, steps=1)
    first = replace(alone, trains=dict.fromkeys(("projector", "compressor"), 1e-30))
    make.train(protocol.Run("alone", alone), tmp_path / "alone")
    make.train(protocol.Run("staged", alone, before=first), tmp_path / "staged")
    want = load_file(tmp_path / "alone" / "model.safetensors")
    bare = load_file(PATH / "model.safetensors")
    assert any(not torch.equal(want[name], bare[name]) for name in want if "language" in name)
    for folder in ("staged/before", "staged"):
        found = load_file(tmp_path / folder / "model.safetensors")
        assert found.keys() == want.keys()
        assert all(torch.equal(found[name], want[name]) for name in want)


def test_two_recipes_one_after_the_other(tmp_path):
    """The first moves the connector alone, the second goes on from it; killed, each goes on."""
    last = replace(
        RECIPES["patchqa"](), method="depthwise", batch=2, micro_batch=2, steps=2, save_every=1
    )
    first = replace(last, trains={"projector": 1e-3, "compressor": 1e-3})
    run, out = protocol.Run("two", last, before=first), tmp_path / "two"
    spent = make.train(run, out)
    assert [found["steps"] for _, found in spent] == [2, 2]
    begin, one, two = (
        load_file(out / folder / "model.safetensors") for folder in ("beginning", "before", ".")
    )
    moved = {name for name in one if not torch.equal(one[name], begin.get(name, one[name] + 1))}
    assert moved and not any("language_model" in name or "vision" in name for name in moved)
    assert any("compressor" in name for name in moved)
    assert any("language_model" in name and not torch.equal(one[name], two[name]) for name in two)
    (out / "training.json").unlink()
    shutil.rmtree(out / "checkpoint-2")
    (out / "before" / "training.json").unlink()
    shutil.rmtree(out / "before" / "checkpoint-2")
    make.train(run, out)
    for folder, want in [("before", one), (".", two)]:
        again = load_file(out / folder / "model.safetensors")
        assert all(torch.equal(again[name], want[name]) for name in want)
    scenes = [make.records(card)[0].id for card in (first, replace(first, seed=make.ELSEWHERE))]
    assert scenes[0] != scenes[1]
