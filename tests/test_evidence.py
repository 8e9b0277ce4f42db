"""The evidence pages say what their results say, and their runs are runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "evidence"))

import intervals  # noqa: E402
import llavolta  # noqa: E402
import llavolta_page  # noqa: E402
import llavolta_words  # noqa: E402
import protocol  # noqa: E402

from foveate import METHODS, compress, sized  # noqa: E402
from foveate.embedded import PATH, load  # noqa: E402
from foveate.train.model import build  # noqa: E402


def test_the_page_is_what_the_results_make_of_it(tmp_path, monkeypatch):
    bare, baseline = protocol.read("llavolta", llavolta.RUNS[0]), llavolta.seeds_of("baseline")
    page = llavolta_page.page(bare, baseline)
    assert (ROOT / "docs" / "llavolta.md").read_text(encoding="utf-8") == page
    other = json.loads(json.dumps(baseline))
    answer = other["0"]["answers"][0]
    answer["right"] = "0" * len(answer["right"])
    assert llavolta_page.page(bare, {int(seed): found for seed, found in other.items()}) != page


def test_every_result_is_of_a_run_and_of_its_recipe():
    names = {run.name: run for run in llavolta.RUNS}
    assert len(names) == len(llavolta.RUNS)
    for path in (ROOT / "results" / "llavolta").glob("*.json"):
        if path.stem != "cost-llava-1.5-7b":
            assert protocol.done("llavolta", names[path.stem]), path.name
            found = json.loads(path.read_text())
            for answer in found["answers"]:
                assert len(answer["right"]) == protocol.QUESTIONS
                share = answer["right"].count("1") / protocol.QUESTIONS
                assert answer["accuracy"]["overall"] == pytest.approx(share)


def test_runs_differ_in_what_they_are_about():
    """Equal scenes, steps and beginnings: of one seed only the method differs; and all can be built."""
    config, seen = AutoConfig.from_pretrained(PATH), {}
    for run in llavolta.RUNS[1:]:
        card = run.recipe.as_dict()
        build(run.recipe, config)
        rest = {k: v for k, v in card.items() if k not in ("name", "method", "arguments")}
        assert seen.setdefault((run.recipe.seed, run.recipe.steps), rest) == rest
    assert {seed for seed, _ in seen} == set(llavolta.SEEDS)


def test_budgets_of_the_small_table_are_one():
    for ask in llavolta.RUNS[1].asks[1:]:
        card = protocol.read("llavolta", llavolta.RUNS[1])
        found = next(a for a in card["answers"] if a["method"] == ask.method)
        assert found["tokens"] == 24


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
    back = protocol.own_method(tmp_path)
    assert repr(back) == repr(method)
    want, found = method.state_dict(), back.state_dict()
    assert want and want.keys() == found.keys()
    assert all(torch.equal(want[name], found[name]) for name in want)


@pytest.mark.parametrize("name", ["baseline-seed0", *(f"{s}-seed0" for s in llavolta.SCHEDULES)])
def test_a_run_is_named_the_same_once_it_is_saved(name, tmp_path):
    run = next(run for run in llavolta.RUNS if run.name == name)
    model, _ = load()
    method = build(run.recipe, model.config)
    compress(model, method).save_pretrained(tmp_path)
    assert repr(protocol.own_method(tmp_path)) == repr(method)


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
