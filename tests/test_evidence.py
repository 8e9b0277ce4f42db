"""The evidence pages say what their results say, and their runs are runs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from evidence import costs, making, pages, results
from evidence.__main__ import PAGES
from evidence.estimates import NOT_RUN, Estimate, Sample, clustered_error
from evidence.protocol import OWN, ROOT, Row, asked
from foveate import METHODS, compress, restore, sized
from foveate.core.compressor import Tower
from foveate.embedded import PATH, load
from foveate.keeping.provenance import write
from foveate.tasks import examples
from foveate.train import RECIPES
from foveate.train.model import build

EACH = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
CONFIG = AutoConfig.from_pretrained(PATH)
STILL = dict.fromkeys(("projector", "language", "compressor"), 1e-30)  # moves no weight


def run_of(page, name):
    return next(run for run in page.runs() if run.name == name)


def small(recipe, **given):
    return replace(recipe, **{"batch": 2, "micro_batch": 2, "steps": 2} | given)


@pytest.fixture
def copied(tmp_path):
    """A page whose results may be changed."""

    def copy(name):
        shutil.copytree(ROOT / "results", tmp_path / "results", dirs_exist_ok=True)
        return replace(PAGES[name], root=tmp_path)

    return copy


# Pages


@EACH
def test_a_page_on_disk_is_what_its_template_makes_of_the_results(page):
    written = (ROOT / "docs" / f"{page.name}.md").read_text(encoding="utf-8")
    assert written == pages.text(page)
    assert written.count("\n") <= 130
    assert re.match(r"# [^\n]+\?\n", written) and written.count("![") == 1
    assert all(name in written for name in results.missing(page))


@EACH
def test_a_page_can_be_written_before_its_runs_are_made(page, copied):
    """Rows say so, claims are left out, and the figure does without."""
    early = copied(page.name)
    for path in (early.root / "results").glob("*/*-seed*.json"):
        if not path.stem.startswith("baseline-seed"):
            path.unlink()
    text = pages.write(early).read_text(encoding="utf-8")
    assert (
        "not run" in text and "\nNot here" not in text and "\nYes" not in text and "{" not in text
    )
    assert "<svg" in (early.root / "docs" / f"{page.name}.svg").read_text()


CLAIMED = {
    "llavolta": ("two_stage", "Not here"),
    "llava_stf": ("stf_mbtf", "Not here"),
    "meteor": ("meteor", "Not here"),
    "focusllava": ("both", "Not here"),
    "fovea": ("even", "Yes"),
}


@pytest.mark.parametrize("name", CLAIMED)
def test_a_changed_number_makes_the_build_fail(copied, name):
    """All questions right: the sentence that says otherwise is named, with its numbers and condition."""
    page, (row, begins) = copied(name), CLAIMED[name]
    for path in (page.root / "results" / name).glob(f"{row}-seed*.json"):
        result = json.loads(path.read_text())
        for answer in result["answers"]:
            answer["right"] = "1" * page.questions
        path.write_text(json.dumps(result))
    with pytest.raises(pages.UnsupportedError) as error:
        pages.write(page)
    said = str(error.value)
    assert said.startswith(f"docs/{name}.md: the numbers no longer support “{begins}")
    assert " ± " in said and "{% claim " in said and not (page.root / "docs").exists()


def test_a_claim_stands_while_its_condition_does(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "TEMPLATES", tmp_path)
    (tmp_path / "one.md.jinja").write_text(
        "{% claim far.side < 0 %}\nIt is {{ far | points }}.\n{% endclaim %}\nEnd"
    )
    one = pages.environment.__wrapped__().get_template("one.md.jinja")
    assert one.render(far=Estimate(-0.03, 0.02)) == "It is -3.0 ± 2.0.\nEnd"
    assert one.render(far=NOT_RUN) == "End"
    with pytest.raises(pages.UnsupportedError, match=r"“It is -1.0 ± 2.0.” .*line 1: {% claim far"):
        one.render(far=Estimate(-0.01, 0.02))


def test_the_library_knows_no_evidence():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    assert sources and not any(re.search(r"(import|from) evidence\b", text) for text in sources)


# Estimates


def test_estimates_over_seeds_and_over_scenes():
    three = Sample({0: [1, 0, 1, 1], 1: [1, 1, 1, 1], 2: [0, 0, 1, 1]}, "abcd")
    found = three.estimate()
    assert found.over_seeds and found[:2] == pytest.approx((0.75, 4.303 * 0.25 / sqrt(3)))
    one = Sample({0: three.values[0]}, "abcd").estimate()
    assert one[:2] == pytest.approx((0.75, 1.96 * 0.5 / 2)) and one.text() == "75.0 ± 49.0†"
    gap = three - Sample({1: [1, 1, 1, 1], 0: [0, 0, 0, 0]}, "abcd")
    assert gap.values == {0: [1, 0, 1, 1], 1: [0, 0, 0, 0]}
    assert gap.of([0, 1]).estimate().mean == 0.25 and gap.of([0, 1]).scenes == ["a", "b"]
    assert Sample({}, "").estimate() is NOT_RUN


def test_questions_about_one_scene_are_no_more_than_the_scene():
    """Twelve copies of an answer say what one does; scenes of a question each, what is usual."""
    alone = [1, 0, 0, 1, 1, 0, 1]
    usual = clustered_error(alone, range(7))
    assert usual == pytest.approx(np.std(alone, ddof=1) / sqrt(7))
    twelve = [value for value in alone for _ in range(12)]
    assert clustered_error(twelve, [i // 12 for i in range(84)]) == pytest.approx(usual)
    assert clustered_error([1, 0, 0, 1], "aabb") == 0  # each scene half
    assert clustered_error([1, 0], "aa") == inf


@pytest.mark.parametrize(("mean", "side"), [(0.03, 1), (-0.03, -1), (0.01, 0), (-0.015, 0)])
def test_sides(mean, side):
    assert Estimate(mean, 0.02).side == side == Estimate(0.5 + mean, 0.02).above(0.5).side
    assert Estimate(mean, 0.02).over(Estimate(0.0, 0.005)) == (mean > 0.025)
    assert pages.sides([Estimate(mean, 0.02)] * 2) == [side]
    assert pages.sides([Estimate(mean, 0.02), NOT_RUN]) is NOT_RUN


def test_what_is_not_run_stays_that():
    assert f"{NOT_RUN.far.side * 100 - 3:.2f}" == str(-abs(1 / NOT_RUN)) == "not run"
    assert not NOT_RUN < 0 and (NOT_RUN == 0) is NOT_RUN and pages.points(NOT_RUN) == "not run"


# Results


@EACH
def test_every_result_is_of_a_run_and_of_its_recipe(page):
    names = [run.name for run in page.runs()]
    assert len(names) == len(set(names)) == pages.made(page)["runs"]
    files = {p.stem for p in (ROOT / "results" / page.name).glob("*.json")}
    files = {name for name in files if not name.startswith("cost-")}
    assert files <= set(names) and not files & set(results.missing(page))
    for name in files:
        result = json.loads(page.file(name).read_text())
        assert result["asked"] == asked(page, run_of(page, name))
        for answer in result["answers"]:
            assert len(answer["right"]) == page.questions
            share = answer["right"].count("1") / page.questions
            assert answer["accuracy"]["overall"] == pytest.approx(share)


def test_groups_and_scenes_are_those_of_the_questions():
    row = results.rows(PAGES["llavolta"])["pool"]
    told = results.questions()
    assert len({question.scene for question in told}) == len(told)  # each has a scene of its own
    for seed, result in row.results.items():
        for group in {question.group for question in told}:
            share = np.mean(row.right(group).values[seed])
            assert share == pytest.approx(result["answers"][0]["accuracy"][group])


def test_results_are_lent_only_to_the_same_recipe():
    page = PAGES["meteor"]
    first = run_of(page, "baseline-seed0")
    assert results.read(page, first) and not page.file(first.name).exists()
    others = [
        replace(first, recipe=replace(first.recipe, steps=7)),
        replace(first, before=first.recipe),
    ]
    assert [results.read(page, other) for other in others] == [None, None]
    assert results.read(replace(page, lender=None), first) is None


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"asked": ', b"\xff", '{"asked": {}}'])
def test_what_is_no_result_is_still_to_be_made(tmp_path, text):
    page = PAGES["llavolta"]
    page = replace(page, rows=page.rows[:1], root=tmp_path)
    write(page.file("embedded"), text)
    with pytest.warns(UserWarning, match=r"\.json is no result: its run is to be made again"):
        assert results.missing(page) == ["embedded"]


def test_a_row_is_asked_in_more_ways_than_one():
    rows = results.rows(PAGES["meteor"])
    less = rows["meteor"].asked(keep=16)
    assert (less.tokens, rows["meteor"].tokens) == (16, 36) and [*less.answers] == [0]
    bare = np.mean(rows["baseline"].right().values[0])
    assert less.far.mean == pytest.approx(less.accuracy.mean - bare)
    assert rows["meteor"].asked(keep=3).accuracy is NOT_RUN
    assert rows["meteor"].neighbour.row.name == "mlp_selection" and rows["baseline"].cost == 1
    staged = rows["meteor_two_stage"].cost / rows["meteor"].cost
    assert staged == pytest.approx(1 + 60 / 120)


# Runs


@EACH
def test_rows_differ_in_what_they_are_about_and_can_be_built(page):
    about = {"name", "method", "arguments", "seed", "positions"}
    about |= {"warm_start", "trains", "steps", "shrink", "distill", "full", "attend"}
    first = page.rows[1 if page.rows[0].recipe is None else 0].recipe.as_dict()
    alike = {"split", "bf16", "attention", "trains"}  # of all rows of a page
    for row in page.rows:
        assert {row.beside, row.baseline} <= {other.name for other in page.rows}
        card = row.recipe
        if card is not None and card.model == "embedded":
            plain, told = RECIPES["patchqa"]().as_dict(), card.as_dict()
            plain |= {key: first[key] for key in alike}
            assert {key for key in told if told[key] != plain[key]} <= about, row.name
            for part in ("projector", "language"):
                assert card.trains[part] == plain["trains"][part]
            build(card, CONFIG)
            for ask in (*row.asks, *row.once):
                own = ask.method == OWN.method
                given = {**(card.arguments if own else {}), **ask.arguments}
                sized(METHODS[card.method if own else ask.method], CONFIG, **given)
        if row.before is not None:
            assert "language" not in row.before.trains and row.before.shrink == card.shrink
    tiles = [row.recipe for row in page.rows if row.recipe and row.recipe.model != "embedded"]
    assert len({str(replace(card, method="identity", arguments={})) for card in tiles}) <= 1


@pytest.mark.parametrize("name", ["llava_stf", "meteor"])
def test_connectors_are_counted(name):
    told, page = costs.connectors(PAGES[name]), PAGES[name]
    for row in page.rows:
        method = build(row.recipe, CONFIG)
        stands_in = any(part.site.tower == Tower.projector for part in method.parts())
        old = 0 if stands_in else told["baseline"]["parameters"]
        assert told[row.name]["parameters"] == sum(p.numel() for p in method.parameters()) + old
        if row.name in ("stf_mbtf", "scan_window", "depth2"):
            assert costs.connector(row.recipe.method, row.recipe.arguments) == told[row.name]
    width, fused = 256, 256 + 3 * 128
    assert told["baseline"]["macs"] == 144 * (width * 128 + 128 * 128)
    if name == "llava_stf":
        block, spatial = fused * 4 * width + 4 * width**2, 4 * width * 512 + 512 * 128
        assert told["stf_mbtf"]["macs"] == 144 * block + 36 * spatial


@pytest.mark.parametrize(
    ("name", "row"),
    [("llavolta", "four_stage_wider_deeper"), ("llavolta", "heavy"), ("meteor", "random_k")],
)
def test_what_a_run_was_trained_with_comes_back(tmp_path, name, row):
    """By the name that its answers are kept under, with its weights, and with them under other arguments."""
    recipe = run_of(PAGES[name], f"{row}-seed0").recipe
    model, _ = load()
    method = build(recipe, model.config)
    with torch.no_grad():
        for weight in method.parameters():
            weight.normal_()
    compress(model, method).save_pretrained(tmp_path)
    back, want = making.own_method(tmp_path), method.state_dict()
    assert repr(back) == repr(method)
    others = [back]
    if row == "random_k":
        others.append(making.changed(recipe, tmp_path, {"keep": 7, "balance": 0.0}))
        last = others[1].parts()[-1]
        assert (last.keep, last.balance, last.sampled) == (7, 0, [7, 16, 36])
    for other in others:
        assert other.state_dict().keys() == want.keys()
        assert all(torch.equal(want[key], value) for key, value in other.state_dict().items())
    restore(model)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_first_stage_begins_where_one_recipe_alone_does(tmp_path):
    """Weight for weight the shared state, whatever learns first."""
    alone = small(RECIPES["patchqa"](), trains=STILL, batch=1, micro_batch=1, steps=1)
    first = replace(alone, trains=dict.fromkeys(("projector", "compressor"), 1e-30))
    for name, before in [("alone", None), ("staged", first)]:
        (run,) = Row(name, name, alone, before=before).runs().values()
        making.train(run, tmp_path / name)
    want, bare = weights(tmp_path / "alone"), weights(PATH)
    assert any(not torch.equal(want[name], bare[name]) for name in want if "language" in name)
    for folder in ("staged/before", "staged"):
        found = weights(tmp_path / folder)
        assert found.keys() == want.keys()
        assert all(torch.equal(found[name], want[name]) for name in want)


def test_two_recipes_one_after_the_other(tmp_path):
    """The first moves the connector alone, the second goes on from it; killed, each goes on."""
    last = small(RECIPES["patchqa"](), method="depthwise", save_every=1)
    first = replace(last, trains={"projector": 1e-3, "compressor": 1e-3})
    (run,) = Row("two", "two", last, before=first).runs().values()
    assert [found["steps"] for _, found in making.train(run, tmp_path)] == [2, 2]
    one, two = weights(tmp_path / "before"), weights(tmp_path)
    for folder in (tmp_path, tmp_path / "before"):
        (folder / "training.json").unlink()
        shutil.rmtree(folder / "checkpoint-2")
    making.train(run, tmp_path)
    for folder, want in [("before", one), (".", two)]:
        again = weights(tmp_path / folder)
        assert all(torch.equal(again[name], want[name]) for name in want)
    assert any("language_model" in name and not torch.equal(one[name], two[name]) for name in two)
    (still,) = Row("still", "still", replace(last, trains=STILL, steps=1)).runs().values()
    making.train(still, tmp_path / "still")
    begun = weights(tmp_path / "still")
    moved = {name for name in one if not torch.equal(one[name], begun[name])}
    assert moved and not any("language_model" in name or "vision" in name for name in moved)
    scenes = [making.records(replace(first, seed=seed))[0].id for seed in (0, making.ELSEWHERE)]
    assert scenes[0] != scenes[1]


def test_a_run_is_made_and_found(tmp_path):
    """Two stages of LLaVA-STF, begun warm, asked a few questions, and nothing made twice."""
    page = PAGES["llava_stf"]
    (row,) = (row for row in page.rows if row.before is not None)
    first = small(row.before, steps=1)
    row = replace(row, recipe=small(row.recipe), before=first, baseline=row.name, seeds=(1,))
    page = replace(page, rows=(row,), questions=11, root=tmp_path)
    (run,) = page.runs()
    assert results.missing(page) == [run.name]
    making.make(page, run)
    assert results.missing(page) == []
    found = results.rows(page)[row.name]
    (answer,), (result,) = found.answers.values(), found.results.values()
    assert found.tokens == 36 and len(answer["right"]) == 11 and found.cost == 1
    assert result["before"]["steps"] == 1 and result["training"]["steps"] == 2
    assert result["before"]["cost"] == result["training"]["cost"]
    assert results.missing(replace(page, rows=(replace(row, before=None),))) == [run.name]


def test_a_run_on_tiles_is_trained_and_asked_there(tmp_path):
    page = PAGES["focusllava"]
    run = run_of(page, "tiles_max2-seed0")
    run = replace(run, recipe=small(run.recipe, steps=1, trains=STILL))
    page = replace(page, questions=11, root=tmp_path, measures={})
    making.make(page, run)
    result = results.read(page, run)
    assert result["answers"][0]["tokens"] == 144 + 12 * 12
    (told,) = (page.out(run) / "answers").rglob("*.json")
    wanted = [question.key for question in examples("patchqa-2x", 11, 1)]
    assert [*json.loads(told.read_text())["answers"]] == wanted
    trained, bare = weights(page.out(run)), load(name=run.recipe.model)[0].state_dict()
    for name in trained.keys() & bare.keys():
        torch.testing.assert_close(trained[name], bare[name], atol=1e-20, rtol=0)
    assert (
        costs.schedule_cost(RECIPES["patchqa_2x"]())["macs"]
        > 5 * costs.schedule_cost(RECIPES["patchqa"]())["macs"]
    )
