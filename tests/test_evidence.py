"""The evidence pages say what their results say, and their runs are runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "evidence"))

import intervals  # noqa: E402
import llavolta  # noqa: E402
import protocol  # noqa: E402

from foveate.embedded import PATH  # noqa: E402
from foveate.train.model import build  # noqa: E402


def test_the_page_is_what_the_results_make_of_it(tmp_path, monkeypatch):
    bare, baseline = protocol.read("llavolta", llavolta.RUNS[0]), llavolta.seeds_of("baseline")
    page = llavolta.page(bare, baseline)
    assert (ROOT / "docs" / "llavolta.md").read_text(encoding="utf-8") == page
    other = json.loads(json.dumps(baseline))
    answer = other["0"]["answers"][0]
    answer["right"] = "0" * len(answer["right"])
    assert llavolta.page(bare, {int(seed): found for seed, found in other.items()}) != page


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
