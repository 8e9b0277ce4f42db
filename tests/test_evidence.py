"""The evidence pages say what their results say, and their runs are runs."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "evidence"))

import costs  # noqa: E402
import finding  # noqa: E402
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

from foveate import METHODS, compress, restore, sized, trace  # noqa: E402
from foveate.compressor import Tower  # noqa: E402
from foveate.embedded import PATH, load  # noqa: E402
from foveate.evaluate import encode  # noqa: E402
from foveate.patchqa import patches_of  # noqa: E402
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
