"""Runs: scored as stated, the same every time, never asked twice, written whole or not at all."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from foveate import embedded, evaluate, is_compressed
from foveate.embedded import PATH
from foveate.evaluate import runs as room
from foveate.evaluate.comparison import series, showed
from foveate.evaluate.curves import curves
from foveate.evaluate.plans import Loaded, fitting, plan
from foveate.evaluate.prompts import first
from foveate.evaluate.report import Panel, Scene, report
from foveate.keeping.provenance import write
from foveate.methods import FastV, Stride
from foveate.patchqa import PatchQA
from foveate.registry import written

JOB = evaluate.Job("tiny", "f", "patchqa", "e", 10, 0, "stride", 0.25, "Stride()", "original", 4, 3)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(PATH)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(PATH)).eval()


@pytest.fixture(scope="module")
def examples():
    return PatchQA("test").examples(10)


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("B F 4", "B F 4", True),
        (" b  f 4\n", "B F 4", True),
        ("BF4", "B F 4", False),
        ("", "yes", False),
        ("yes yes", "yes", False),
    ],
)
def test_exact_match(prediction, answer, right):
    assert evaluate.exact(prediction, answer) is right


def test_wilson_by_hand():
    assert evaluate.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert evaluate.wilson(0, 0) == (0.0, 1.0)
    low, high = evaluate.wilson(10, 10)
    assert low < high == pytest.approx(1)


def test_every_kind_weighs_the_same():
    often = [{"kind": "color", "group": "local", "right": True}] * 30
    rare = [{"kind": "place", "group": "local", "right": False}] * 3
    sign = [{"kind": "sign", "group": "fine", "right": True}] * 3
    found = evaluate.scores(often + rare + sign)
    assert found["accuracy"] == {"overall": pytest.approx(2 / 3), "local": 0.5, "fine": 1.0}
    assert found["interval"]["fine"] == evaluate.wilson(3, 3)
    low, high = found["interval"]["local"]
    assert low < 0.5 < high
    assert found["kinds"]["place"]["n"] == 3


def test_interval_of_a_mean_is_never_of_zero_width():
    low, high = evaluate.mean_interval([(10, 10), (10, 10)])
    assert low < high == pytest.approx(1)


def test_a_batch_answers_as_each_alone(model, processor, examples):
    asks = [(e.images, e.question) for e in examples[:4]]
    together = evaluate.replies(model, processor, asks, 3)
    assert together == [evaluate.replies(model, processor, [ask], 3)[0] for ask in asks]
    assert {reply.before for reply in together} == {model.config.image_seq_length}


def test_a_run_counts_tokens_and_cost(model, processor, examples, tmp_path):
    bare = evaluate.run(model, processor, examples, replace(JOB, method="identity"), None, tmp_path)
    cut = evaluate.run(model, processor, examples, JOB, Stride(0.25), tmp_path)
    late = evaluate.run(model, processor, examples, JOB, FastV(0.25, layer=2))
    patches = model.config.image_seq_length
    assert (bare["tokens"], bare["tokens_before"]) == (patches, patches)
    assert (cut["tokens"], late["tokens"]) == (patches // 4, patches // 4)
    assert bare["cost"]["total"] > late["cost"]["total"] > cut["cost"]["total"]
    assert bare["cost"]["kv_bytes"] > late["cost"]["kv_bytes"] > cut["cost"]["kv_bytes"]
    assert set(cut["answers"]) == {e.key for e in examples}
    assert not is_compressed(model)


def test_a_finished_run_is_not_repeated(model, processor, examples, tmp_path, monkeypatch):
    first = evaluate.run(model, processor, examples, JOB, Stride(0.25), tmp_path)
    monkeypatch.setattr(room, "replies", None)
    again = evaluate.run(model, processor, examples, JOB, Stride(0.25), tmp_path)
    assert again == json.loads(json.dumps(first))
    with pytest.raises(TypeError):  # another job is another run
        evaluate.run(
            model, processor, examples, replace(JOB, fingerprint="g"), Stride(0.25), tmp_path
        )


def test_a_killed_run_resumes(model, processor, examples, tmp_path, monkeypatch):
    whole = evaluate.run(model, processor, examples, JOB, Stride(0.25), tmp_path / "whole")

    def die(done):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate.run(model, processor, examples, JOB, Stride(0.25), tmp_path, advance=die)
    assert not is_compressed(model)
    (part,) = tmp_path.glob("*.parts/*.json")
    part.with_name(f"{4:09d}.json").write_text('{"job": "cut off in the mid')
    asked = []
    real = room.replies
    monkeypatch.setattr(
        room, "replies", lambda m, p, asks, n: asked.append(len(asks)) or real(m, p, asks, n)
    )
    with pytest.warns(UserWarning, match="not what was written there"):
        resumed = evaluate.run(model, processor, examples, JOB, Stride(0.25), tmp_path)
    assert asked == [4, 2]
    assert resumed["answers"] == whole["answers"]
    assert not part.parent.exists()


def test_a_result_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write(path, "old")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_tell_jobs_apart():
    assert JOB.name.startswith("patchqa-tiny-stride-0.25-")
    assert JOB.name != replace(JOB, n=11).name
    assert "/" not in replace(JOB, model="owner/name").name


def test_fingerprints_follow_the_weights(model):
    before = evaluate.fingerprint(model)
    assert before == evaluate.fingerprint(model)
    weight = model.lm_head.weight
    old = weight.data.clone()
    weight.data.mul_(1.01)
    assert evaluate.fingerprint(model) != before
    weight.data.copy_(old)


def test_the_prompt_falls_back_to_llava(processor):
    class Plain:
        image_token = "<image>"

    assert (
        evaluate.prompt(Plain(), "why ?", ["image"] * 2)
        == "USER: <image>\n<image>\nwhy ? ASSISTANT:"
    )
    assert evaluate.prompt(processor, "why ?") == "USER: <image>\nwhy ? ASSISTANT:"


def test_a_run_wants_a_bare_model(model, processor, examples):
    import foveate

    with foveate.compressed(model, Stride(0.5)), pytest.raises(ValueError, match="restore"):
        evaluate.run(model, processor, examples, JOB)


def test_a_trained_model_is_a_star_and_no_line(model, processor, examples):
    bare = replace(JOB, method="identity", keep=1.0)
    runs = [evaluate.run(model, processor, examples, job) for job in (bare, JOB)]
    retrained = evaluate.run(model, processor, examples, replace(bare, model="other"))
    before = evaluate.comparison(runs)
    after = evaluate.comparison([*runs, retrained])
    assert [run["model"] for run in after["runs"]] == ["tiny", "tiny", "other"]
    assert "#882255" not in curves(before)
    assert "#882255" in curves(after)
    page = report(after)
    assert page.count('<td class="name">uncompressed</td>') == 2  # one model is bare, in two tables
    assert page.count('<td class="name">other (trained)</td>') == 3
    assert "Star: a model trained with its method, other." in page
    assert "Star:" not in report(before)


def test_untrained_weights_are_another_run_and_said_everywhere(model, processor, examples):
    fresh = replace(JOB, untrained=True)
    assert fresh.name != JOB.name
    runs = [
        evaluate.run(model, processor, examples, replace(JOB, method="identity", keep=1.0)),
        evaluate.run(model, processor, examples, JOB, Stride(0.25)),
        evaluate.run(model, processor, examples, fresh, Stride(0.25)),
    ]
    assert [run["untrained"] for run in runs] == [False, False, True]
    document = evaluate.comparison(runs, notes=["<b>fresh</b> weights"])
    assert list(series(document)) == ["stride", "stride (untrained)"]  # two lines
    page = report(document)
    assert page.count('<td class="name">stride (untrained)</td>') == 3
    assert "&lt;b&gt;fresh&lt;/b&gt; weights." in page


def test_the_report_needs_nothing_else(model, processor, examples):
    bare = replace(JOB, method="identity", keep=1.0)
    runs = [
        evaluate.run(model, processor, examples, bare),
        evaluate.run(model, processor, examples, JOB, Stride(0.25)),
        evaluate.run(model, processor, examples, replace(JOB, keep=0.5), Stride(0.5)),
    ]
    skipped = [{"method": "pool", "keep": 0.3, "why": "<no such share>"}]
    document = evaluate.comparison(runs, skipped)
    picture = Image.new("RGB", (24, 24), "green")
    panels = [Panel("stride", 36, [("", picture)], "<b>red</b>", False)]
    scenes = [Scene("what ?", "blue", "color", panels)]
    methods = {"stride": {"line": "Even steps", "paper": "A et al. 2025", "arxiv": "2501.00001"}}
    page = report(document, scenes, methods, "0.25")
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {"https://arxiv.org/abs/2501.00001"}
    assert "<b>red</b>" not in page  # what models and errors say is text, not markup
    assert "&lt;no such share&gt;" in page
    best, low = (f"{100 * run['accuracy']['overall']:.1f}" for run in (runs[2], runs[1]))
    assert {f"<b>{best}</b>", f"<b>{low}</b>"} <= set(re.findall(r"<b>[\d.]+</b>", page))
    assert showed(document) == []  # of one method none is the best
    both = evaluate.comparison([*runs, {**runs[1], "job": {**runs[1]["job"], "model": "other"}}])
    (quarter,) = showed(both)
    assert quarter.startswith(f"36 of 144 tokens: stride has {low} % right, all tokens ")
    assert quarter.endswith("; not told apart from it: other (trained).") and quarter in report(
        both
    )
    assert page.count("data:image/webp;base64,") == 1
    assert "<svg" in page
    assert not re.search(r"<(script \w|link|iframe)\b", page)


def test_a_budget_that_only_a_picture_shows_to_be_none_is_left_out(examples):
    """A few merges reach no 9 of 144 tokens, which nobody knows before there are 144."""
    loaded = Loaded(*embedded.load(), "embedded")
    asked, _ = plan([written.spec("tome"), written.spec("stride")], [9])
    assert len(fitting(loaded, asked)[0]) == 3
    fit, unfit = fitting(loaded, asked, first(examples))
    assert [one.method for one in fit] == ["identity", "stride"]
    assert unfit[0]["method"] == "tome" and "leave 18 or more of 144" in unfit[0]["why"]
