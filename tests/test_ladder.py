"""A budget for each question: what is proven of it, and that rows climb as they would alone."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch

import foveate
from foveate import cli, embedded
from foveate.engines.vllm.served import check_switches
from foveate.evaluate import ask, encode
from foveate.evaluate.likelihood import losses
from foveate.evaluate.replies import answers
from foveate.hosts import attach
from foveate.hosts.whole import fingerprint
from foveate.ladder import Ladder, Rungs, calibrated, proven, tail
from foveate.ladder.rungs import THRESHOLDS, Way
from foveate.methods import Stride
from foveate.tasks import examples

GREEDY = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}


@pytest.mark.parametrize(("wrong", "of", "rate"), [(0, 9, 0.25), (3, 40, 0.125), (40, 40, 0.5)])
def test_tails_are_exact(wrong, of, rate):
    p = Fraction(rate)
    exact = sum(comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(wrong + 1))
    assert tail(wrong, of, rate) == pytest.approx(float(exact), rel=1e-12)


def test_testing_ends_at_the_first_that_is_not_shown():
    assert proven([0, 1, 30, 0], 200, 0.05, 0.05) == 1
    assert proven([30, 0], 200, 0.05, 0.05) is None
    assert proven([0], 58, 0.05, 0.05) is None and proven([0], 59, 0.05, 0.05) == 0  # .95**n
    with pytest.raises(ValueError, match="risk=0"):
        proven([0], 9, 0, 0.1)


def world(n, seed=0):
    """Questions whose doubt says something, and not all, about whether their answer will differ."""
    draw = np.random.default_rng(seed)
    hard = draw.random((n, 1))
    doubt = np.clip(hard * [1.2, 0.8, 0.5] + 0.2 * draw.standard_normal((n, 3)), 1e-9, None)
    differs = draw.random((n, 3)) < hard**3 * [0.5, 0.2, 0.0]
    return Rungs(doubt, differs, np.tile([4.0, 16.0, 64.0], (n, 1)))


def test_the_bound_holds_as_often_as_it_says():
    """Calibrated 300 times, it may be wrong in more than delta of them with less than one in a million."""
    risk, delta, times = 0.05, 0.1, 300
    every, draw = world(100_000), np.random.default_rng(1)
    broken, fewer = 0, 0
    for _ in range(times):
        way = calibrated(every.some(draw.integers(len(every), size=500)), risk, delta)
        truth = every.walk(way)
        broken += truth.differs.mean() > risk
        fewer += truth.tokens.mean() < 64
    most = next(k for k in range(times) if 1 - tail(k, times, delta) < 1e-6)
    assert broken <= most and fewer > times / 2  # and it says something


def test_a_way_by_hand():
    doubt = np.array([[0.1, 0.1, 0.0], [0.9, 0.1, 0.0], [0.9, 0.9, 0.9], [np.nan, 0.2, 0.0]])
    differs = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    rungs = Rungs(doubt, differs, np.tile([4.0, 16.0, 64.0], (4, 1)))
    walk = rungs.walk(Way(0, 2, 0.5))
    assert walk.rung.tolist() == [0, 1, 2, 1] and walk.differs.tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert walk.tokens.tolist() == [4, 20, 84, 20]
    assert rungs.walk(Way(0, 2)).rung.tolist() == [2] * 4  # at 0 all climb
    alone = rungs.walk(Way(1, 1))
    assert alone.rung.tolist() == [1] * 4 and alone.tokens.tolist() == [16] * 4
    assert calibrated(rungs, 0.01, 0.01) == Way(2, 2)  # four questions show nothing
    assert THRESHOLDS[0] == 0 and sorted({*THRESHOLDS}) == [*THRESHOLDS]


@pytest.fixture(scope="module")
def asked():
    model, processor = embedded.load()
    return model, processor, [ask(one) for one in examples("patchqa", 12, 3)]


KEEPS = [4, 36, 1.0]


def climbing(model, keeps, threshold):
    return attach.compress(model, Stride(keeps[0]), ladder={"keeps": keeps, "threshold": threshold})


def test_rows_climb_as_they_would_alone(asked):
    model, processor, asks = asked
    each = []
    for rung in [Stride(4), Stride(36), None]:
        with attach.lent(model):
            if rung is not None:
                attach.compress(model, rung)
            each.append(answers(model, processor, asks, GREEDY))
    threshold = float(np.median([reply.doubt for reply in each[0]]))
    with attach.lent(model):
        climbing(model, KEEPS, threshold)
        found = answers(model, processor, asks, GREEDY)
        (alone,) = answers(model, processor, asks[5:6], GREEDY)
        inputs, _ = encode(processor, asks)
        said = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
        climbing(model, KEEPS, 0.0)
        assert all(one.rung == 1.0 for one in answers(model, processor, asks, GREEDY))
        with pytest.raises(ValueError, match="sampling, beams"):
            answers(model, processor, asks, {"num_beams": 2})
        with pytest.raises(ValueError, match="scored without one"):
            losses(model, processor, asks[:1], [" x"])
    assert {one.rung for one in found} == {*KEEPS}
    assert (alone.text, alone.rung) == (found[5].text, found[5].rung)
    texts = processor.batch_decode(said, skip_special_tokens=True)
    for row, one in enumerate(found):
        rung = KEEPS.index(one.rung)
        assert one.text == each[rung][row].text == texts[row].strip()
        assert one.doubt == pytest.approx(each[rung][row].doubt, abs=1e-4)
        assert one.after == sum([4, 36, 144][: rung + 1])
        assert one.columns[0] == sum(each[n][row].columns[0] for n in range(rung + 1))
        assert all(each[n][row].doubt > threshold for n in range(rung))
    assert not attach.is_compressed(model)


def test_a_ladder_up_to_all_tokens_is_evaluated(asked, tmp_path, capsys):
    told = {"risk": 0.1, "delta": 0.1, "n": 9, "task": "mine", "examples": "", "model": "embedded"}
    ladder = Ladder("stride", (4, 36, 1.0), 0.5, fingerprint=fingerprint(asked[0]), **told)
    file = str(ladder.write(tmp_path / "ladder.json", {}))
    assert cli.run(["eval", "--method", file, "--limit", "22", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    answers = run["answers"].values()
    assert {one["rung"] for one in answers} == {4, 36, 1.0}
    spent = {4: 4, 36: 40, 1.0: 184}
    assert run["tokens"] == sum(spent[one["rung"]] for one in answers) / 22


def test_a_row_in_doubt_is_not_answered_to_its_end(asked):
    model, processor, asks = asked
    steps = []
    handle = model.register_forward_hook(lambda *given: steps.append(1))
    with attach.lent(model):
        answers(climbing(model, [4, 9], 0.0), processor, asks, GREEDY)
        whole = len(steps)
        answers(climbing(model, [9], 0.0), processor, asks, GREEDY)
    handle.remove()
    assert whole == len(steps) - whole + 1  # one prefill more


def test_calibrate_from_the_command_line(tmp_path, capsys):
    words = [
        "calibrate",
        "--method",
        "stride",
        "--keeps",
        "0.25,0.5",
        "--limit",
        "88",
        "--risk",
        "0.5",
    ]
    whole = str(tmp_path / "whole")
    assert cli.run([*words, "--out", str(tmp_path), "--save", whole, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["alone"]) == {"0.25", "0.5", "1.0"}
    assert document["alone"]["1.0"]["differ"] == 0 and document["tokens"] <= 36
    ladder = Ladder.read(tmp_path / "ladder.json")
    assert ladder.method == "stride" and ladder.n == 88 and ladder.keeps[0] == 0.25
    model, processor = embedded.load()
    asks = [ask(one) for one in examples("patchqa", 88)][:8]
    with torch.no_grad():
        found = ladder.answers(model, processor, asks, 8)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*stride-0.25*")]
    told = [one["prediction"] for one in runs[0]["answers"].values()][:8]
    assert [one.text for one in found if one.rung == 0.25] == [
        text for text, one in zip(told, found, strict=True) if one.rung == 0.25
    ]
    file = str(tmp_path / "ladder.json")
    assert cli.run(["eval", "--method", file, "--limit", "88", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["tokens"] == pytest.approx(document["tokens"]) and run["keep"] is None
    rungs = [one["rung"] for one in run["answers"].values()]
    assert {str(k): rungs.count(k) for k in ladder.keeps} == {
        k: n for k, n in document["answered"].items() if n
    }
    assert foveate.compress(model, file).generate.described["risk"] == 0.5
    foveate.restore(model)
    for wrong, why in (
        (["compare", "--methods", file], "want names"),
        (["calibrate", "--method", file], "want one budget"),
        (["ask", str(picture(tmp_path)), "what ?", "--method", file, "--keep", "4"], "beside"),
    ):
        assert cli.run(wrong) == 2 and why in capsys.readouterr().err
    assert cli.run(["ask", str(picture(tmp_path)), "what ?", "--method", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rung"] in ladder.keeps
    assert foveate.from_pretrained(whole).generate.described["keeps"] == [*ladder.keeps]
    assert cli.run(["ask", str(picture(tmp_path)), "what ?", "--model", whole, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rung"] in ladder.keeps
    few = ["--limit", "4", "--examples", "0", "--out", str(tmp_path / "audit"), "--json"]
    assert cli.run(["audit", "--model", whole, *few]) == 0  # each rung by itself
    audited = json.loads(capsys.readouterr().out)["rows"][1:]
    assert [row["keep"] for row in audited] == [k for k in ladder.keeps if k != 1.0]
    with pytest.raises(ValueError, match="one budget"):
        check_switches({"ladder": {}}, "it")
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    with pytest.raises(
        ValueError, match=r"calibrated for embedded \(weights .*, and this model has others"
    ):
        ladder.answers(model, processor, asks, 8)
    for said in (False, True):  # in words; and of a risk that so few questions cannot show
        more = ["--risk", "0.001"] if said else []
        assert cli.run([*words, *more, "--out", str(tmp_path)]) == 0
        told = capsys.readouterr().out
        assert ("nothing with fewer tokens is shown" in told) == said
    (tmp_path / "ladder.json").write_text("{}")
    with pytest.raises(ValueError, match="no ladder as `foveate calibrate` writes one"):
        Ladder.read(tmp_path / "ladder.json")


def picture(folder):
    image = folder / "a.png"
    examples("patchqa", 1)[0].images[0].save(image)
    return image


def test_no_label_is_read(tmp_path, capsys):
    picture(tmp_path)
    rows = [{"image": "a.png", "question": "what is the background ?"}] * 3
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    words = [
        "calibrate",
        "--task",
        str(tmp_path / "mine.json"),
        "--method",
        "stride",
        "--keeps",
        "9",
    ]
    out = ["--out", str(tmp_path / "out")]
    assert cli.run([*words, *out, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["keeps"] == [1.0] and "3 questions show no risk" in said.err
    assert cli.run(["calibrate", "--model", "embedded-llava_stf", "--limit", "1", *out]) == 2
    assert "for a single budget" in capsys.readouterr().err
