"""The evidence pages say what their results say, and their runs are runs."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "evidence"))

import costs  # noqa: E402
import finding  # noqa: E402
import focusllava  # noqa: E402
import focusllava_found  # noqa: E402
import focusllava_guides  # noqa: E402
import focusllava_looks  # noqa: E402
import focusllava_names  # noqa: E402
import focusllava_page  # noqa: E402
import focusllava_samples  # noqa: E402
import focusllava_seen  # noqa: E402
import focusllava_words  # noqa: E402
import found  # noqa: E402
import intervals  # noqa: E402
import llava_stf  # noqa: E402
import llava_stf_page  # noqa: E402
import llava_stf_words  # noqa: E402
import llavolta  # noqa: E402
import llavolta_page  # noqa: E402
import llavolta_words  # noqa: E402
import making  # noqa: E402
import meteor  # noqa: E402
import meteor_finds  # noqa: E402
import meteor_page  # noqa: E402
import meteor_tables  # noqa: E402
import meteor_words  # noqa: E402
import protocol  # noqa: E402

from foveate import METHODS, Step, compress, restore, sized, trace  # noqa: E402
from foveate.core.compressor import Site, Tower  # noqa: E402
from foveate.core.ops import budget  # noqa: E402
from foveate.embedded import PATH, load  # noqa: E402
from foveate.evaluate import encode  # noqa: E402
from foveate.keeping.provenance import write  # noqa: E402
from foveate.patchqa import PatchQA, patches_of  # noqa: E402
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
    back = making.own_method(tmp_path)
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
    assert repr(making.own_method(tmp_path)) == repr(method)


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
    """Weight for weight the shared state, whatever learns first."""
    still = dict.fromkeys(("projector", "language", "compressor"), 1e-30)  # moves no weight
    alone = replace(RECIPES["patchqa"](), trains=still, batch=1, micro_batch=1, steps=1)
    first = replace(alone, trains=dict.fromkeys(("projector", "compressor"), 1e-30))
    making.train(protocol.Run("alone", alone), tmp_path / "alone")
    making.train(protocol.Run("staged", alone, before=first), tmp_path / "staged")
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
    spent = making.train(run, out)
    assert [found["steps"] for _, found in spent] == [2, 2]
    still = replace(last, method="identity", trains={"projector": 1e-30}, steps=1)
    making.train(protocol.Run("still", still), tmp_path / "still")
    begin, one, two = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "still", out / "before", out)
    )
    moved = {name for name in one if not torch.equal(one[name], begin.get(name, one[name] + 1))}
    assert moved and not any("language_model" in name or "vision" in name for name in moved)
    assert any("compressor" in name for name in moved)
    assert any("language_model" in name and not torch.equal(one[name], two[name]) for name in two)
    (out / "training.json").unlink()
    shutil.rmtree(out / "checkpoint-2")
    (out / "before" / "training.json").unlink()
    shutil.rmtree(out / "before" / "checkpoint-2")
    making.train(run, out)
    for folder, want in [("before", one), (".", two)]:
        again = load_file(out / folder / "model.safetensors")
        assert all(torch.equal(again[name], want[name]) for name in want)
    scenes = [making.records(card)[0].id for card in (first, replace(first, seed=making.ELSEWHERE))]
    assert scenes[0] != scenes[1]


def test_a_run_is_made_and_found(tmp_path, monkeypatch):
    """Two stages of LLaVA-STF, begun warm, asked a few questions, and nothing made twice."""
    for room in (making, found):
        monkeypatch.setattr(room, "ROOT", tmp_path)
    for room in (making, protocol):
        monkeypatch.setattr(room, "QUESTIONS", 11)
    card = llava_stf.recipe("stf_mbtf", seed=1)
    last = replace(card, batch=2, micro_batch=2, steps=2, warm_start=True)
    first = replace(last, trains={"projector": 1e-3, "compressor": 1e-3}, steps=1)
    run = protocol.Run("stf_mbtf-seed1", last, before=first)
    page = protocol.Page("llava_stf", (run,))
    assert found.missing(page) == [run.name]
    making.make(page, run)
    assert found.missing(page) == []
    (result,) = found.seeds_of(page, "stf_mbtf").values()
    (answer,) = result["answers"]
    assert answer["tokens"] == 36 and len(answer["right"]) == 11
    assert result["before"]["steps"] == 1 and result["training"]["steps"] == 2
    assert result["before"]["cost"] == result["training"]["cost"]
    assert found.missing(replace(page, runs=(replace(run, before=None),))) == [run.name]


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"asked": ', b"\xff", '{"asked": {}}'])
def test_what_is_no_result_is_still_to_be_made(tmp_path, monkeypatch, text):
    monkeypatch.setattr(found, "ROOT", tmp_path)
    page = replace(llavolta.PAGE, runs=llavolta.PAGE.runs[:1], lender=None)
    write(found.file(page.name, page.runs[0].name), text)
    with pytest.warns(UserWarning, match=r"\.json is no result: its run is to be made again"):
        assert found.missing(page) == [page.runs[0].name]


def test_llava_stf_page_is_what_the_results_make_of_it():
    baseline = found.seeds_of(llava_stf.PAGE, "baseline")
    page = llava_stf_page.page(baseline)
    assert (ROOT / "docs" / "llava_stf.md").read_text(encoding="utf-8") == page
    for name in found.missing(llava_stf.PAGE):
        assert name in page


def _told(share: float) -> str:
    """A measure of as many questions as are asked: half of them this, half of them next to it."""
    return " ".join([f"{share:.3f}", f"{share + 0.1:.3f}"] * (finding.ASKED // 2))


FINDS = {
    "n": finding.ASKED,
    "kept": 36,
    "patches": 144,
    "recall": {"own": _told(0.4), "visual": _told(0.5), "native": _told(0.1)},
    "area": {"visual": _told(0.6), "native": _told(0.2)},
    "swapped": {
        "recall": {"own": _told(0.3), "visual": _told(0.5), "native": _told(0.2)},
        "area": {"visual": _told(0.6), "native": _told(0.3)},
    },
}


def test_llava_stf_page_of_all_and_of_no_runs(tmp_path, monkeypatch):
    """Every table and every sentence, from results that are LLaVolta's under other names."""
    for page in ("llava_stf", "llavolta"):
        (tmp_path / "results" / page).mkdir(parents=True)
    monkeypatch.setattr(found, "ROOT", tmp_path)
    sizes = ROOT / "results" / "llava_stf" / "cost-connectors.json"
    shutil.copy(sizes, tmp_path / "results" / "llava_stf")
    none = llava_stf_page.page(_filled("baseline"))
    assert "In short" not in none and "pool-seed0" in none
    for run in llava_stf.PAGE.runs:
        _filled(run.name.rsplit("-seed", 1)[0], "fastv" if "stf" in run.name else "pool")
    baseline = _filled("baseline")
    page = llava_stf_page.page(baseline)
    runs = len(llava_stf.PAGE.runs)
    assert "Still to be run" not in page and f"{runs} of {runs}" in page
    words = page[page.index("In short") : page.index("## 1.")]
    assert words.count("\n- ") == 9 and "STF + MBTF stands below the full-token" in words
    assert page.count("–") == page.count(" – ")  # no cell is empty, and dashes are words
    lines = llava_stf_page.lines()
    assert [sorted(points) for points in lines.values()] == [[2, 3, 4], [2, 3, 4]]
    picture = llava_stf_page.figures.budgets(
        lines, intervals.estimate(found.right(baseline)), tmp_path / "budgets.svg"
    )
    assert "<svg" in picture.read_text()


def _filled(
    row: str, source: str = "baseline", page: protocol.Page = llava_stf.PAGE
) -> dict[int, dict]:
    """Results for a row of a page, found in LLaVolta's; the row's, from the files written."""
    for run in page.runs:
        if run.name.rsplit("-seed", 1)[0] == row:
            path = ROOT / "results" / "llavolta" / f"{source}-seed{run.recipe.seed}.json"
            result = json.loads(path.read_text()) | {"asked": protocol.asked(run)}
            own = result["answers"][0]
            changed = [ask.arguments for ask in run.asks if ask.arguments]
            result["answers"][1:] = [own | {"changed": dict(change)} for change in changed]
            if run.before is not None:
                result["before"] = result["training"]
            if page is meteor.PAGE and meteor.selects(row):
                result["finds"] = FINDS
            found.file(page.name, run.name).write_text(json.dumps(result))
    return found.seeds_of(page, row)


def test_llava_stf_runs_differ_in_what_they_are_about():
    config = AutoConfig.from_pretrained(PATH)
    about = {"name", "method", "arguments", "seed", "positions", "warm_start"}
    sizes = costs.connectors(llava_stf.PAGE)
    assert len({run.name for run in llava_stf.PAGE.runs}) == len(llava_stf.PAGE.runs)
    plain = RECIPES["patchqa"]().as_dict()
    for run in llava_stf.PAGE.runs:
        row = run.name.rsplit("-seed", 1)[0]
        method = build(run.recipe, config)
        own = sum(p.numel() for p in method.parameters())
        old = 0 if method.site.tower == Tower.projector else sizes["baseline"]["parameters"]
        assert sizes[row]["parameters"] == own + old, row
        card = run.recipe.as_dict() | {"steps": plain["steps"], "trains": plain["trains"]}
        assert {k for k in card if card[k] != plain[k]} <= about
        if run.before is not None:
            assert "language" not in run.before.trains and run.before.shrink == run.recipe.shrink
    tokens = {row: 144 // llava_stf.side_of(row) ** 2 for row in llava_stf.ROWS}
    for row, n in tokens.items():
        for result in found.seeds_of(llava_stf.PAGE, row).values():
            assert result["answers"][0]["tokens"] == n


def test_results_are_lent_only_to_the_same_recipe():
    first = llava_stf.PAGE.runs[0]
    assert found.done(llava_stf.PAGE, first)
    for recipe in (replace(first.recipe, steps=7), replace(first.recipe, shrink=0.4)):
        assert not found.done(llava_stf.PAGE, replace(first, recipe=recipe))
    assert not found.done(llava_stf.PAGE, replace(first, before=first.recipe))
    assert not found.done(replace(llava_stf.PAGE, lender=None), first) or (
        found.file("llava_stf", first.name).exists()
    )


def test_groups_are_those_that_accuracy_was_told_by():
    for seed, result in found.seeds_of(llavolta.PAGE, "pool").items():
        for group in found.groups():
            (right,) = found.right({seed: result}, group=group).values()
            share = result["answers"][0]["accuracy"][group]
            assert sum(right) / len(right) == pytest.approx(share)


@pytest.mark.parametrize("row", ["baseline", "stf_mbtf"])
def test_connectors_are_counted(row):
    told = costs.connectors(llava_stf.PAGE)[row]
    method, arguments = llava_stf.ROWS[row]
    assert costs.connector(method, arguments) == told
    width, fused = 256, 256 + 3 * 128
    block = fused * 4 * width + 4 * width * width
    spatial = 4 * width * 512 + 512 * 128
    want = {"baseline": 144 * (width * 128 + 128 * 128), "stf_mbtf": 144 * block + 36 * spatial}
    assert told["macs"] == want[row]


def test_llava_stf_words_do_not_say_more_than_intervals():
    def far(mean):
        return llava_stf_words.reached(intervals.Estimate(mean, 0.02, True))

    assert "stands below" in far(-0.03) and "not reached" in far(-0.03)
    assert "not told apart" in far(-0.01) and "more than 3.0 points" in far(-0.01)
    assert "stands above" in far(0.03)
    assert llava_stf_words.paper("stf_mbtf", "baseline") == pytest.approx(6.1 / 8)


PAGE_OF_METEOR = ROOT / "docs" / "meteor.md"


@pytest.mark.skipif(not PAGE_OF_METEOR.exists(), reason="the page is not written yet")
def test_meteor_page_is_what_the_results_make_of_it():
    page = meteor_page.page(found.seeds_of(meteor.PAGE, "baseline"))
    assert PAGE_OF_METEOR.read_text(encoding="utf-8") == page
    for name in found.missing(meteor.PAGE):
        assert name in page


def test_meteor_page_of_all_and_of_lent_runs(tmp_path, monkeypatch):
    """Every table and every sentence, from results that are LLaVolta's under other names."""
    for folder in ("meteor", "llavolta"):
        shutil.copytree(ROOT / "results" / folder, tmp_path / "results" / folder)
    for path in (tmp_path / "results" / "meteor").glob("*-seed*.json"):
        path.unlink()
    monkeypatch.setattr(found, "ROOT", tmp_path)
    baseline = found.seeds_of(meteor.PAGE, "baseline")
    lent = meteor_page.page(baseline)
    assert "In short" not in lent and "meteor-seed0" in lent and "baseline-seed0" not in lent
    assert not meteor_tables.lines()
    for row in meteor.ROWS:
        if row not in meteor.LENT:
            _filled(row, "fastv" if meteor.fuses(row) else "pool", meteor.PAGE)
    page = meteor_page.page(baseline)
    runs = len(meteor.PAGE.runs)
    assert "Still to be run" not in page and f"{runs} of {runs}" in page and "–" not in page
    words = page[page.index("In short") : page.index("## 1.")]
    assert words.count("\n- ") == 13 and "at 7 of 144 tokens it stands below it" in words
    assert "looks away from what is asked" in words and "the question matters" in words
    assert {name: sorted(points) for name, points in meteor_tables.lines().items()} == {
        "average pooling": [6, 11, 25],
        "projector + selection": [5, 11, 25],
        "LLaVA-Meteor": [5, 11, 25],
        "K drawn in training": [5, 11, 25],
    }
    level = intervals.estimate(found.right(baseline))
    drawn = meteor_page.figures.budgets(meteor_tables.lines(), level, tmp_path / "b.svg", "{} %")
    assert "11 %" in drawn.read_text()


def test_meteor_runs_differ_in_what_they_are_about():
    config, plain = AutoConfig.from_pretrained(PATH), RECIPES["patchqa"]().as_dict()
    about = {"method", "arguments", "seed", "warm_start"}
    sizes = costs.connectors(meteor.PAGE)
    assert len({run.name for run in meteor.PAGE.runs}) == len(meteor.PAGE.runs)
    for run in meteor.PAGE.runs:
        row = run.name.rsplit("-seed", 1)[0]
        method = build(run.recipe, config)
        own = sum(p.numel() for p in method.parameters())
        stands_in = any(part.site.tower == Tower.projector for part in method.parts())
        old = 0 if stands_in else sizes["baseline"]["parameters"]
        assert sizes[row]["parameters"] == own + old and stands_in == meteor.fuses(row), row
        card = run.recipe.as_dict() | {"steps": plain["steps"], "trains": plain["trains"]}
        differs = {k for k in card if card[k] != plain[k]}
        assert differs <= (about | {"positions"} if row in meteor.POOLED else about), row
        if run.before is not None:
            assert "language" not in run.before.trains and run.before.shrink == run.recipe.shrink
        if meteor.selects(row):
            assert method.parts()[-1].keep == meteor.keep_of(row)
        for ask in run.asks:
            sized(METHODS[run.recipe.method], config, **run.recipe.arguments | {**ask.arguments})
    first = [run.name for run in meteor.PAGE.runs[: len(meteor.MAIN)]]
    assert first == [f"{row}-seed0" for row in meteor.MAIN]
    for row in meteor.LENT:
        assert found.seeds_of(meteor.PAGE, row), "a row of LLaVolta's page is not lent"


@pytest.mark.parametrize("row", ["meteor", "mlp_selection_k7", "scan_window", "depth2"])
def test_the_connectors_of_meteor_are_counted(row):
    assert costs.connector(*meteor.ROWS[row]) == costs.connectors(meteor.PAGE)[row]


@pytest.mark.full
def test_a_run_is_asked_with_other_arguments_and_looked_into(tmp_path, monkeypatch):
    """Selection behind the projector: other budgets, experts alone, and whether it finds what is asked."""
    for room in (making, found):
        monkeypatch.setattr(room, "ROOT", tmp_path)
    for room in (making, protocol):
        monkeypatch.setattr(room, "QUESTIONS", 11)
    monkeypatch.setattr(finding, "ASKED", 5)
    (run,) = (run for run in meteor.PAGE.runs if run.name == "mlp_selection-seed0")
    run = replace(run, recipe=replace(run.recipe, batch=2, micro_batch=2, steps=2))
    page = replace(meteor.PAGE, runs=(run,), lender=None)
    making.make(page, run)
    (result,) = found.seeds_of(page, "mlp_selection").values()
    assert [a["tokens"] for a in result["answers"]] == [36, 16, 7, 36, 36]
    assert "balance=1.0" in found.answer(result, changed={"balance": 1.0})["compressor"]
    assert "keep=7," in found.answer(result, changed={"keep": 7})["compressor"]
    assert "changed" not in found.answer(result) and found.answer(result)["own"]
    finds = result["finds"]
    assert (finds["n"], finds["kept"], finds["patches"]) == (5, 36, 144)
    for told in (finds, finds["swapped"]):
        for measure, names in (
            ("recall", {"own", "visual", "native"}),
            ("area", {"visual", "native"}),
        ):
            assert told[measure].keys() == names
            assert all(0 <= float(v) <= 1 for one in told[measure].values() for v in one.split())
            assert all(len(one.split()) == 5 for one in told[measure].values())
    assert finds["recall"]["visual"] == finds["swapped"]["recall"]["visual"]
    assert finds["area"]["native"] != finds["swapped"]["area"]["native"]
    examples = finding.sought()
    with _saved(tmp_path, run) as (model, processor):
        batch, words = encode(processor, [(e.images, e.question) for e in examples])
        with trace(model) as seen:
            model(**batch, instruction_mask=words)
    step = seen.steps[-1]
    cell = torch.arange(144)
    assert torch.equal(step.grid[0], torch.stack([0 * cell, cell // 12, cell % 12], dim=1))
    for row, example, told in zip(
        step.owner, examples, finds["recall"]["own"].split(), strict=True
    ):
        asked = torch.from_numpy(patches_of(example.asked[0])).flatten()
        assert float(told) == pytest.approx(float((row[asked] >= 0).float().mean()), abs=5e-4)


@contextmanager
def _saved(root: Path, run: protocol.Run):
    """A model as a run left it, with its method."""
    out = root / "out" / "evidence" / "meteor" / run.name
    model = AutoModelForImageTextToText.from_pretrained(out).eval()
    yield compress(model, making.own_method(out)), AutoProcessor.from_pretrained(out)


def test_other_arguments_leave_the_weights(tmp_path):
    recipe = meteor.recipe("random_k", 0)
    model, _ = load()
    method = build(recipe, model.config)
    with torch.no_grad():
        for weight in method.parameters():
            weight.normal_()
    compress(model, method).save_pretrained(tmp_path)
    other = making.changed(recipe, tmp_path, {"keep": 7, "balance": 0.0})
    assert other.parts()[-1].keep == 7 and other.parts()[-1].balance == 0
    assert other.parts()[-1].sampled == [7, 16, 36]
    want, given = method.state_dict(), other.state_dict()
    assert want.keys() == given.keys()
    assert all(torch.equal(want[name], given[name]) for name in want)
    restore(model)


def test_nothing_is_sought_where_nothing_is_selected(tmp_path):
    runs = {run.name: run for run in meteor.PAGE.runs}
    for row in ("baseline", "pool", "random", "fusion_all"):
        assert finding.finds(runs[f"{row}-seed0"], tmp_path) is None
        assert not meteor.selects(row)


def test_shares_and_areas():
    kept = torch.tensor([[True, True, False, False], [False, True, True, False]])
    asked = torch.tensor([[True, False, True, True], [False, True, True, False]])
    assert finding.shares(kept, asked) == [pytest.approx(1 / 3), 1.0]
    score = torch.tensor([0.1, 0.4, 0.4, 0.2])
    assert finding.area(score, torch.tensor([False, True, False, False])) == pytest.approx(2.5 / 3)
    assert finding.area(score, torch.tensor([True, False, False, False])) == 0
    assert finding.area(score, torch.tensor([False, True, True, False])) == 1


def test_measures_are_read_by_seed_and_group(monkeypatch):
    results = {0: {"finds": FINDS}, 1: {}}
    assert list(meteor_finds.values(results, meteor_finds.OWN)) == [0]
    one = meteor_finds.values(results, meteor_finds.OTHER_AREA)[0]
    assert len(one) == finding.ASKED and one[:2] == [0.3, 0.4]
    groups = {g: meteor_finds.values(results, meteor_finds.OWN, g)[0] for g in ("fine", "local")}
    asked = meteor_finds.asked_groups()
    assert {g: len(v) for g, v in groups.items()} == {g: asked.count(g) for g in groups}
    assert "global" not in asked


def test_meteor_words_do_not_say_more_than_intervals():
    def to(mean):
        return meteor_words._to(intervals.Estimate(mean, 0.02, True), "it")

    assert to(-0.03) == "stands below it (-3.0 ± 2.0)"
    assert to(-0.01).startswith("is not told apart from") and to(0.03).startswith("stands above")


PAGE_OF_FOCUSLLAVA = ROOT / "docs" / "focusllava.md"
# Two kinds of pictures by turns: busy regions fine and flat ones coarse, and the other way round.
SAMPLES = {
    "before": 144,
    "tokens": {"language 0": "40 60 " * 440, "language 3": "20 30 " * 440},
    "regions": {
        "text": {"1": "2 1 " * 200, "2": "0 0 " * 200, "4": "0 1 " * 200},
        "object": {"1": "1 0 " * 200, "2": "1 4 " * 200, "4": "0 0 " * 200},
        "background": {"1": "0 1 " * 200, "2": "0 0 " * 200, "4": "5 0 " * 200},
    },
    "patches": {
        "text": {"1": "16 8 " * 200, "2": "0 0 " * 200, "4": "0 8 " * 200},
        "object": {"1": "8 0 " * 200, "2": "8 16 " * 200, "4": "0 0 " * 200},
        "background": {"1": "8 8 " * 200, "2": "0 0 " * 200, "4": "104 104 " * 200},
    },
    "area": "0.900 0.600 " * 180,
}
LOOK = {"area": 0.8, "other": 0.5, "kept": 0.9, "chance": 0.5, "overlap": 0.7, "expected": 0.5}


def _guides(layers) -> dict:
    """What is looked at in these layers: the first most of all."""
    per = {
        k: {name: f"{v:.3f} {v - k / 100:.3f} " * 100 for name, v in LOOK.items()} for k in layers
    }
    return {"n": 200, "keep": 0.5, "layers": {str(k): told for k, told in per.items()}}


def _focused(row: str, source: str) -> None:
    """Results for a row of FocusLLaVA's page, found in LLaVolta's."""
    pages = {run.name: run for run in focusllava.PAGE.runs}
    for name, run in pages.items():
        if name.rpartition("-seed")[0] == row:
            path = ROOT / "results" / "llavolta" / f"{source}-seed{run.recipe.seed}.json"
            result = json.loads(path.read_text()) | {"asked": protocol.asked(run)}
            tokens = {"baseline": 144, "tiles_baseline": 720, "vision": 50}.get(row, 25)
            own = result["answers"][0] | {"tokens": tokens}
            result["answers"] = [own] * len(run.asks)
            sampled = focusllava.routes(row) or row.startswith("max")
            if run.recipe.method == "focusllava":
                plain = {"before": 144, "tokens": SAMPLES["tokens"]}
                result["samples"] = SAMPLES if sampled and "max" not in row else plain
            if row in focusllava.MAIN:
                result["guides"] = _guides(range(1, 6))
            elif focusllava.guided(row):
                result["guides"] = _guides([focusllava.BY_LAYER.get(row, focusllava.HALF)])
            found.file("focusllava", name).write_text(json.dumps(result))


@pytest.fixture
def no_results(tmp_path, monkeypatch):
    """A page without results but for those that others lend."""
    shutil.copytree(ROOT / "results" / "meteor", tmp_path / "results" / "meteor")
    (tmp_path / "results" / "focusllava").mkdir()
    (tmp_path / "docs").mkdir()
    for room, names in [(found, ("ROOT",)), (focusllava_page, ("ROOT",))]:
        for name in names:
            monkeypatch.setattr(room, name, tmp_path)
    monkeypatch.setattr(focusllava_page, "DOCS", tmp_path / "docs")
    return tmp_path


@pytest.mark.skipif(not PAGE_OF_FOCUSLLAVA.exists(), reason="the page is not written yet")
def test_focusllava_page_is_what_the_results_make_of_it():
    page = focusllava_page.page(found.seeds_of(focusllava.PAGE, "baseline"))
    assert PAGE_OF_FOCUSLLAVA.read_text(encoding="utf-8") == page
    for name in found.missing(focusllava.PAGE):
        assert name in page


def test_focusllava_page_of_one_run(no_results):
    """Before there are others: every table stands, with dashes, and no picture fails."""
    with pytest.raises(SystemExit, match="no baseline yet"):
        focusllava_page.write()
    _focused("baseline", "baseline")
    assert focusllava_page.write() == "docs/focusllava.md"
    page = (no_results / "docs" / "focusllava.md").read_text(encoding="utf-8")
    assert "both-seed0" in page and "pool-seed0" not in page and "## 7" not in page
    assert "FocusLLaVA takes" not in page and "focusllava-questions.png" not in page
    for name in ("shares", "guidance", "scales"):
        assert "<svg" in (no_results / "docs" / f"focusllava-{name}.svg").read_text()


def test_focusllava_page_of_all_runs(no_results):
    """Every table and every sentence, from results that are LLaVolta's under other names."""
    for row in focusllava.ALL:
        if row not in focusllava.LENT:
            _focused(row, "baseline" if row.endswith("baseline") else "pool")
    focusllava_page.write()
    page = (no_results / "docs" / "focusllava.md").read_text(encoding="utf-8")
    runs = len(focusllava.PAGE.runs)
    assert "Still to be run" not in page and f"{runs} of {runs}" in page and "–" not in page
    words = page[page.index("In short") : page.index("## 1.")]
    assert words.count("\n- ") == 13
    assert "FocusLLaVA takes 50 into the language model (40 to 60 by picture)" in words
    assert "17 % left in the end and 26 % in the mean" in words  # 25 of 144; (3 · 50 + 3 · 25) / 6
    assert "The scale of a region goes by what is there" in words and "75, 0, 25 %" in words
    assert "follows what is asked" in words and "most in the layer before" in words
    assert "In tiles" in words and "## 7." in page
    assert "FocusLLaVA, ρ = 0.5 (17 %" in words and "FocusLLaVA, ρ = 0.5 (26 %" in words


def test_focusllava_runs_differ_in_what_they_are_about():
    config, plain = AutoConfig.from_pretrained(PATH), RECIPES["patchqa"]().as_dict()
    about = {"method", "arguments", "seed", "trains"}
    assert len({run.name for run in focusllava.PAGE.runs}) == len(focusllava.PAGE.runs)
    for run in focusllava.PAGE.runs:
        row = run.name.rsplit("-seed", 1)[0]
        if row in focusllava.ROWS:
            method = build(run.recipe, config)
            card = run.recipe.as_dict() | {"steps": plain["steps"]}
            differs = {k for k in card if card[k] != plain[k]}
            more = {"pool": {"positions"}} | {key: {"shrink"} for key in focusllava.TUNED}
            assert differs <= about | more.get(row, set()), row
            inside = [part.site.layer for part in method.parts() if part.site.layer]
            assert inside == [k for k in [focusllava.cut(*focusllava.ROWS[row])] if k], row
            rates = run.recipe.trains
            assert rates | {"compressor": 0} == plain["trains"] | {"compressor": 0}
            for ask in run.asks:
                own = ask.method == protocol.OWN.method
                slug = run.recipe.method if own else ask.method
                sized(
                    METHODS[slug], config, **(run.recipe.arguments if own else {}) | ask.arguments
                )
        assert row in focusllava_names.NAMES
    first = [run.name for run in focusllava.PAGE.runs[: len(focusllava.MAIN)]]
    assert first == [f"{row}-seed0" for row in focusllava.MAIN]
    for row in focusllava.LENT:
        assert len(found.seeds_of(focusllava.PAGE, row)) == 3, "a row of LLaVA-Meteor's is not lent"


@pytest.mark.full
def test_a_run_of_focusllava_is_made_and_looked_into(tmp_path, monkeypatch):
    """Both samplers: their tokens and shares are those that evaluation counts, their scales those traced."""
    for room in (making, found):
        monkeypatch.setattr(room, "ROOT", tmp_path)
    for room in (making, protocol, focusllava_samples):
        monkeypatch.setattr(room, "QUESTIONS", 11)
    monkeypatch.setattr(focusllava_samples, "LOOKED_AT", 5)
    monkeypatch.setattr(focusllava_guides, "SCENES", 4)
    (run,) = (run for run in focusllava.PAGE.runs if run.name == "both-seed0")
    run = replace(run, recipe=replace(run.recipe, batch=2, micro_batch=2, steps=2))
    page = replace(focusllava.PAGE, runs=(run,), lender=None)
    making.make(page, run)
    monkeypatch.setattr(focusllava_found, "PAGE", page)
    (result,) = found.seeds_of(page, "both").values()
    own, samples = result["answers"][0], result["samples"]
    tokens = {site: [int(n) for n in told.split()] for site, told in samples["tokens"].items()}
    assert samples["before"] == 144 and {site: len(n) for site, n in tokens.items()} == {
        "language 0": 11,
        "language 3": 11,
    }
    assert own["tokens"] == pytest.approx(sum(tokens["language 3"]) / 11)
    left, layers = focusllava_found.shares("both", result)
    assert left == pytest.approx(own["tokens"] / 144)
    assert layers == pytest.approx(sum(sum(n) for n in tokens.values()) / 2 / 11 / 144)
    for keep, ask in focusllava.ASKED_AT["both"].items():
        asked = focusllava_found.told(result, ask)
        stay = budget(keep, torch.tensor(tokens["language 0"])).double().mean()
        assert asked["tokens"] == pytest.approx(float(stay))
    counted = {
        what: sum(
            int(n) for of in samples[what].values() for told in of.values() for n in told.split()
        )
        for what in ("regions", "patches")
    }
    assert counted == {"regions": 5 * 9, "patches": 5 * 144}
    guides = result["guides"]
    assert guides["n"] == 4 and list(guides["layers"]) == ["1", "2", "3", "4", "5"]
    for told in guides["layers"].values():
        assert told.keys() == LOOK.keys()
        assert all(0 <= float(v) <= 1 for one in told.values() for v in one.split())
    _kept_as_the_method_keeps(tmp_path / "out" / "evidence" / "focusllava" / run.name, guides)


def _kept_as_the_method_keeps(out: Path, guides: dict) -> None:
    """What is measured in layer 3 is what the trained sampler does there."""
    (two,) = focusllava_guides.scenes_of(PatchQA("test", seed=protocol.TEST_SEED), 1)
    model, processor = focusllava_seen.opened(out, making.own_method(out), "original")
    first, last = focusllava_seen.looked(
        model, processor, [((two.image,), q) for q in two.questions]
    )
    shares = []
    for i, regions in enumerate(two.asked):
        asked = torch.from_numpy(patches_of(regions)).flatten()
        shares.append(float((last.owner[i][asked] >= 0).float().mean()))
    assert float(guides["layers"]["3"]["kept"].split()[0]) == pytest.approx(
        sum(shares) / 2, abs=1e-3
    )
    stays = [set(first.owner[i][last.owner[i] >= 0].tolist()) for i in (0, 1)]
    overlap = len(stays[0] & stays[1]) / len(stays[0])
    assert float(guides["layers"]["3"]["overlap"].split()[0]) == pytest.approx(overlap, abs=1e-3)


def test_two_questions_are_about_different_things():
    for two in focusllava_guides.scenes_of(PatchQA("test", seed=protocol.TEST_SEED), 8):
        here, there = map(patches_of, two.asked)
        assert here.any() and there.any() and not (here & there).any()
        assert two.questions[0] != two.questions[1]


def _cells(rows: int, columns: int, view: int, border: int = 0) -> torch.Tensor:
    """(P, 3) the patches of a view."""
    cell = torch.arange(rows * columns)
    place = [cell * 0 + view, cell // columns + border, cell % columns + border]
    return torch.stack(place, dim=1)


def test_scales_and_truth_are_laid_on_the_map():
    """A map of 4 × 4 behind an overview of 2 × 2: its regions of 2 × 2 at scales 1, 2, 2 and 1."""
    grid = torch.cat([_cells(2, 2, 0), _cells(4, 4, 1, border=3)])
    fine = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).bool().flatten()
    owner = torch.arange(20)
    owner[4:][~fine] = torch.tensor([20, 20, 20, 20, 21, 21, 21, 21])
    step = Step(Site(Tower.language, 0), owner[None], None, None, None, grid[None])
    side = focusllava_samples.scales(step, 0)
    assert side.tolist() == [[2, 2, 1, 1], [2, 2, 1, 1], [1, 1, 2, 2], [1, 1, 2, 2]]
    assert [int(side[b].max()) for b in focusllava_samples.tiled(side, 2)] == [2, 1, 1, 2]
    assert len(list(focusllava_samples.tiled(side, 3))) == 4
    truth = np.zeros((32, 32), dtype=np.uint8)
    truth[:8, 8:16], truth[16:24, :8], truth[24:, 24:] = 3, 90, 101
    held = focusllava_seen.kinds(truth, 8)
    want = [[2, 1, 2, 2], [2, 2, 2, 2], [0, 2, 2, 2], [2, 2, 2, 0]]
    assert held.tolist() == want  # background but for a digit, a sign and an object
    counts = focusllava_samples.tallied(side.ravel(), held.ravel())
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [7, 6, 0]]
    asked = focusllava_seen.asked_of(np.where(truth == 90, truth, 0), grid)
    assert asked.nonzero().flatten().tolist() == [2, 4 + 8]  # in the overview and in the map
    values = torch.arange(20)
    assert focusllava_seen.laid(values, grid[None][0], 1)[3].tolist() == [16, 17, 18, 19]
    assert focusllava_seen.map_of(grid) == 1


def test_what_stays_is_chosen_token_by_token():
    """Five patches, one dropped before, two of one token: a token is kept whole."""
    owner = torch.tensor([0, 1, 0, -1, 2])
    score = torch.tensor([0.5, 0.1, 0.5, float("nan"), 0.3])
    assert focusllava_guides.kept(score, owner, 0.34).tolist() == [True, False, False]
    assert focusllava_guides.kept(score, owner, 0.67).tolist() == [True, False, True]
    asked = np.zeros((8, 40), dtype=np.uint8)
    one, other = asked.copy(), asked.copy()
    one[:, :8], other[:, 8:16] = 1, 2
    cells = _cells(1, 5, 0)
    scores = torch.stack([score, torch.tensor([0.1, 0.9, 0.1, float("nan"), 0.3])])
    steps = [
        Step(Site(Tower.language, 3), owner[None], None, None, row[None], cells[None])
        for row in scores
    ]
    told = focusllava_guides.measured(
        steps, 0, focusllava_guides.Two(None, ("", ""), (one, other)), 0.34
    )
    assert told["kept"] == 1.0 and told["overlap"] == 0.0
    assert told["expected"] == pytest.approx(1 / 3)
    assert told["chance"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert told["area"] == pytest.approx((5 / 6 + 1) / 2) and told["other"] < 0.2


def test_shares_of_the_tokens_are_counted_in_two_ways(no_results):
    _focused("baseline", "baseline")
    _focused("both", "pool")
    _focused("text", "pool")
    points = focusllava_found.points(found.seeds_of(focusllava.PAGE, "baseline"))
    by = {(p.line, p.keep): p for p in points}
    assert (by["both", 0.5].left, by["both", 0.5].layers) == pytest.approx((25 / 144, 37.5 / 144))
    assert by["text_untrained", 0.5].layers == pytest.approx((3 + 3) / 6)  # it is told 144 of 144
    assert {keep for line, keep in by if line == "both"} == {0.25, 0.5, 0.75, 1.0}
    assert by["pool", None].left == by["pool", None].layers == pytest.approx(0.25)
    assert focusllava_found.fine_on("both") == pytest.approx((32 / 48, 64 / 288))


def test_focusllava_words_do_not_say_more_than_intervals(monkeypatch):
    def meets(mean, share):
        far = intervals.Estimate(mean, 0.02, True)
        point = focusllava_found.Point("both", "both", 0.5, share, 0.9, far, far)
        return focusllava_words.meets([point], "left")

    assert meets(-0.03, 0.5) == ""  # more than the paper's tokens
    assert "none meets the baseline" in meets(-0.03, 0.39) and "stands below" in meets(-0.03, 0.39)
    assert "none" not in meets(-0.01, 0.39) and "is not told apart" in meets(-0.01, 0.39)
    assert "stands above the baseline: FocusLLaVA, ρ = 0.5 (20 %, +3.0" in meets(0.03, 0.2)
    for mean, verdict in [(0.6, "goes by"), (0.5, "is not seen"), (0.4, "is upside down")]:
        area = intervals.Estimate(mean, 0.02, True)
        monkeypatch.setattr(
            focusllava_looks,
            "busy_area",
            lambda row, level=0.0, area=area: area._replace(mean=area.mean - level),
        )
        monkeypatch.setattr(focusllava_looks, "scaled", lambda *of, area=area: area)
        monkeypatch.setattr(focusllava_looks, "fine_on", lambda row: None)
        assert f"The scale of a region {verdict}" in focusllava_looks.scale()
