"""What fewer tokens change: every figure counted by hand on twenty answers, and asked of a real model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from foveate import audit, cli, embedded
from foveate.audit import looking, maps
from foveate.chat import MARK, Chat, Turn
from foveate.evaluate import ask, replies
from foveate.evaluate.likelihood import following
from foveate.evaluate.plans import BARE, Loaded, Plan, fitting
from foveate.evaluate.work import Work
from foveate.keeping.provenance import record
from foveate.registry import written
from foveate.tasks import examples

# Twenty questions, two about each of ten pictures: group, label, with all tokens, with fewer, how sure.
TWENTY = [
    ("read", "stop", "stop", "stop", 0.95),
    ("read", "stop", "stop", "shop", 0.55),
    ("read", "exit", "exit", "EXIT ", 0.95),
    ("read", "exit", "exit", "exist", 0.65),
    ("read", "taxi", "tax", "taxi", 0.75),
    ("read", "taxi", "tax", "tab", 0.35),
    ("count", "1", "1", "1", 0.95),
    ("count", "2", "2", "3", 0.85),
    ("count", "3", "2", "3", 0.75),
    ("count", "4", "4", "4", 0.95),
    ("count", "5", "6", "6", 0.45),
    ("count", "6", "6", "6", 0.85),
    ("there", "yes", "yes", "yes", 0.95),
    ("there", "yes", "yes", "no", 0.55),
    ("there", "no", "yes", "no", 0.65),
    ("there", "no", "no", "yes", 0.55),
    ("there", "no", "no", "no", 0.95),
    ("there", "yes", "no", "maybe", 0.25),
    ("there", "yes", "yes", "yes", 0.95),
    ("there", "no", "no", "no", 0.85),
]
BARE_SURE = 0.9
EXAMPLES = [SimpleNamespace(images=(Image.new("L", (2, 2), n // 2),)) for n in range(20)]


def told(answers, scored=True):
    """The document of a run, as far as an audit reads it; without scores, reading one is an error."""
    found = {}
    for n, (group, label, said) in enumerate(answers):
        one = {"prediction": said, "group": group, "doubt": n / 10}
        score = {"answer": label, "right": said.strip().lower() == label} if scored else {}
        found[str(n)] = one | score
    job = dict.fromkeys(("model", "task", "metric", "protocol", "method"), "")
    job |= {"seed": 0, "untrained": False}
    return {"job": job, "method": "", "keep": 0.25, "tokens": 36, "tokens_before": 144} | {
        "circumstances": record(0),
        "answers": found,
    }


def both(scored=True):
    """Both runs of the twenty, and what their looks found."""
    runs = [told([(g, label, (a, b)[i]) for g, label, a, b, _ in TWENTY], scored) for i in (0, 1)]
    second = [["red"] * 20, ["red"] * 15 + ["blue"] * 5]
    found = [
        {"sure": sure, "first": [x] * 20, "apart": [0.5, x] * 10, "second": said, "map": None}
        for sure, x, said in zip(
            ([BARE_SURE] * 20, [one[4] for one in TWENTY]), (0.0, 0.25), second, strict=True
        )
    ]
    return runs, found


def test_twenty_answers_by_hand():
    document = audit.audit(EXAMPLES, *both(), labelled=True)
    bare, row = document["rows"]
    assert (document["n"], document["labelled"], bare["flips"]["count"]) == (20, True, 0)
    # Other answers: 2, 4, 5, 6, 8, 9, 14, 15, 16, 18 of 1 … 20; "EXIT " is the same one.
    assert (row["flips"]["count"], row["flips"]["n"], row["flips"]["share"]) == (10, 20, 0.5)
    low, high = row["flips"]["interval"]
    assert 0 < low < 0.5 < high < 1
    # Worse: 2, 4, 8, 14, 16. Better: 5, 9, 15. Wrong both times: 6, 18, and 11, which stays.
    assert (row["worse"], row["better"], row["scored"]) == (5, 3, 20)
    assert (bare["accuracy"], row["accuracy"]) == (14 / 20, 12 / 20)
    assert (row["first"], row["apart"]) == (0.25, 0.375)
    assert row["doubt"] == pytest.approx(0.95) and row["sure"] == pytest.approx(14.7 / 20)
    assert (row["second"]["count"], row["second"]["share"]) == (5, 0.25)
    # All tokens say yes to 13, 14, 15, 19 and no to 16, 17, 18, 20; "maybe" is neither.
    assert row["balance"] == {"n": 8, "whole": 4, "yes": 3, "no": 4, "to_no": 2, "to_yes": 1}
    groups = {
        name: (f["count"], f["n"], f["worse"], f["better"]) for name, f in row["groups"].items()
    }
    assert groups == {"read": (4, 6, 2, 1), "count": (2, 6, 1, 1), "there": (4, 8, 2, 1)}
    assert row["sentences"] is None


def test_confidence_by_hand():
    """Surest first, wrong ones in brackets; those that are equally sure share what is wrong of them.

    .95 seven times; .85, [.85], .85; .75, .75; [.65], .65; [.55], [.55], [.55]; [.45]; [.35]; [.25]
    """
    row = audit.audit(EXAMPLES, *both(), labelled=True)["rows"][1]
    # Right less confidence, summed by bin: 7·.05; 2 − 3·.85; 2·.25; 1 − 2·.65; −3·.55; −.45; −.35; −.25
    gaps = [0.35, 0.55, 0.5, 0.3, 1.65, 0.45, 0.35, 0.25]
    assert row["ece"] == pytest.approx(sum(gaps) / 20)
    squares = 7 * 0.05**2 + 2 * 0.15**2 + 0.85**2 + 2 * 0.25**2 + 0.65**2 + 0.35**2
    squares += 3 * 0.55**2 + 0.45**2 + 0.35**2 + 0.25**2
    assert row["brier"] == pytest.approx(squares / 20)
    wrong = [0] * 7 + [1 / 3, 2 / 3, 1, 1, 1, 1.5, 2, 3, 4, 5, 6, 7, 8]
    assert row["aurc"] == pytest.approx(np.mean([w / k for k, w in enumerate(wrong, 1)]))
    bare = audit.audit(EXAMPLES, *both(), labelled=True)["rows"][0]
    assert bare["ece"] == pytest.approx(0.9 - 0.7)  # all in one bin
    assert bare["brier"] == pytest.approx((14 * 0.01 + 6 * 0.81) / 20)
    assert bare["aurc"] == pytest.approx(0.3)  # of equals, whichever come first


def test_no_label_is_read_where_none_is_promised():
    """The answers have neither a label nor a score here: reading one would be a KeyError."""
    document = audit.audit(EXAMPLES, *both(scored=False), labelled=False)
    assert not document["labelled"]
    for row in document["rows"]:
        every = {*row, *(name for group in row["groups"].values() for name in group)}
        assert not every & {"worse", "better", "scored", "accuracy", "ece", "brier", "aurc"}
    assert document["rows"][1]["flips"]["count"] == 10
    text = audit.page(document)
    assert "No labels were read." in text and "ECE" not in text
    runs, found = both()
    for run in runs:
        for one in run["answers"].values():
            one["right"] = None  # labels were promised, and no question has one
    assert not audit.audit(EXAMPLES, runs, found, labelled=True)["labelled"]


def test_long_answers_sentence_by_sentence():
    whole = ["A dog runs. It is brown!  The sky is blue.", "One thing alone.", "Two. Three."]
    fewer = ["a dog runs. The sky is grey.", "Another thing.", "Three.  Two."]
    assert audit.sentences(whole, fewer) == {"answers": 2, "said": 5, "lost": 2, "new": 1}
    assert audit.lost(whole[0], fewer[0]) == ["It is brown!", "The sky is blue."]
    assert audit.lost(whole[1], fewer[1]) == []
    assert audit.sentences(whole[1:2], fewer[1:2]) is None


def test_maps_by_hand():
    """A picture of 2 × 3 patches: one token of two patches, one alone, two dropped."""
    owner, nowhere = np.array([0, 0, -1, 1, -1, -1, -2]), np.nan
    grid = np.array([[0, r, c] for r in range(2) for c in range(3)] + [[-1, -1, -1]])
    share = maps.density(owner)
    assert share.tolist() == [0.5, 0.5, 0, 1, 0, 0, 0]
    small = audit.mapped(share, grid, (2, 3))
    assert small.tolist() == [[0.5, 0.5, 0], [1, 0, 0]]
    assert audit.mapped(share, grid, (4, 3)).tolist() == [[0.5, 0.5, 0]] * 2 + [[1, 0, 0]] * 2
    shifted = grid + np.where(grid < 0, 0, [1, 1, 1])  # a second view, behind a border
    two = np.concatenate([grid, shifted]), np.concatenate([share, 1 - share])
    assert audit.mapped(two[1], two[0], (2, 3)).tolist() == [[0.5] * 3] * 2
    holes = maps.mean([small, np.full((2, 3), nowhere)], (2, 3), [3, 1])
    assert holes.tolist() == small.tolist()
    weighed = maps.mean([small, small * 0], (2, 3), [3, 1])
    assert weighed.tolist() == (small * 0.75).tolist()
    assert maps.written(np.array([[nowhere, 1 / 3]])) == [[None, 0.33333]]


def test_distributions_apart_by_hand():
    whole, fewer = (
        torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(),
        torch.tensor([[0.25, 0.75]] * 2).log(),
    )
    first = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert looking.apart(whole[:1], fewer[:1]) == pytest.approx(first)
    assert looking.apart(whole, fewer) == pytest.approx((first + np.log(4)) / 2)


def test_a_second_turn_is_about_the_same_pictures():
    one, two = Image.new("L", (2, 2), 1), Image.new("L", (2, 2), 2)
    some = [SimpleNamespace(images=(image,)) for image in (one, two, one.copy(), one)]
    assert looking.following_questions(some) == [2, 1, 3, 0]
    images, turns = looking.second(((one, two), "what is it ?"), "a dog", "how many ?")
    assert images == (one, two)
    assert turns == [
        Turn("user", f"{MARK}\n{MARK}\nwhat is it ?"),
        Turn("assistant", "a dog"),
        Turn("user", "how many ?"),
    ]


@pytest.fixture(scope="module")
def opened():
    model, processor = embedded.load()
    return Loaded(model, processor, "embedded")


def asked(loaded, out, task="patchqa", batch_size=4, n=4, methods="stride,pool,fastv"):
    """A few questions, answered with all tokens and by methods of three kinds."""
    plans = [Plan(BARE, 1.0), *(Plan(str(s), 0.25, s) for s in written.specs(methods, ""))]
    plans, unfit = fitting(loaded, plans)
    work = Work(
        loaded, task, examples(task, n, 1), batch_size=batch_size, max_new_tokens=3, out=out
    )
    return work, plans, work.runs(plans), unfit


def test_the_model_says_what_it_says(opened):
    """Read behind its prompt, an answer is the one that the model gave, token by token, with its end."""
    asks = [ask(one) for one in examples("patchqa", 12, 1)]
    said = [one.text for one in replies(opened.model, opened.processor, asks, 8)]
    given = [Chat(opened.processor).lead + text for text in said]
    end = opened.model.generation_config.eos_token_id
    for logits, ids in following(opened.model, opened.processor, asks, given):
        assert logits.argmax(-1).tolist() == [*ids.tolist(), end]


@pytest.mark.parametrize("task", ["patchqa", "patchqa-two"])
def test_looks_of_a_padded_batch_are_those_of_each_alone(opened, tmp_path, task):
    work, plans, runs, unfit = asked(opened, tmp_path / "together", task, 3, 3)
    assert not unfit and not opened.model.__class__.__name__.startswith("Compressed")
    found, why = looking.looks(work, plans, runs)
    again = Work(
        opened, task, work.examples, batch_size=1, max_new_tokens=3, out=tmp_path / "alone"
    )
    alone, _ = looking.looks(again, plans, runs)
    assert not why
    for row, single in zip(found, alone, strict=True):
        for name in ("sure", "first", "apart"):
            assert row[name] == pytest.approx(single[name], abs=1e-4)
        assert row["second"] == single["second"]
        assert np.array(row["map"]) == pytest.approx(np.array(single["map"]), abs=1e-4)
    bare, stride, pool, fastv = found
    assert bare["first"] == bare["apart"] == [0.0] * 3 and max(fastv["first"]) > 0
    assert np.shape(bare["map"]) == (12, 12) and 0 < np.sum(bare["map"]) < 1
    for row in (stride, pool, fastv):
        assert np.sum(row["map"]) == pytest.approx(36, abs=1e-3)
    assert {*np.ravel(stride["map"])} == {0.0, 1.0}  # the same cells of every picture
    assert {*np.ravel(pool["map"])} == {0.25}
    assert len({*np.ravel(fastv["map"])}) > 2


def test_looks_are_read_again(opened, tmp_path, monkeypatch):
    work, plans, runs, _ = asked(opened, tmp_path, batch_size=1, n=2, methods="stride")
    found, _ = looking.looks(work, plans, runs)
    gone, *_ = sorted((tmp_path / "looks").rglob("*.json"))
    gone.unlink()
    heard = []
    monkeypatch.setattr(looking, "replies", lambda *given: heard.append(1) or replies(*given))
    assert looking.looks(work, plans, runs)[0] == found
    assert len(heard) == len(plans)  # one batch alone is asked again


def test_a_model_that_tells_no_attention(opened, tmp_path, monkeypatch):
    def refuse(*given, **how):
        raise NotImplementedError("no attention here")

    work, plans, runs, _ = asked(opened, tmp_path, n=2, methods="stride")
    monkeypatch.setattr(looking, "FastV", refuse)
    found, why = looking.looks(work, plans, runs)
    assert why == "no attention here" and found[0]["map"] is None and found[1]["map"]
    text = audit.page(audit.audit(work.examples, runs, found, True, why))
    assert "cannot be read: no attention here" in text


def test_audit_from_the_command_line(tmp_path, capsys):
    words = ["audit", "--methods", "pool", "--keeps", "0.0625", "--limit", "8", "--examples", "2"]
    words += ["--out", str(tmp_path)]
    assert cli.run([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    bare, row = document["rows"]
    assert row["flips"]["count"] > 2 and bare["worse"] == 0
    assert json.loads((tmp_path / "audit.json").read_text())["rows"] == document["rows"]
    text = (tmp_path / "audit.html").read_text()
    assert text.count('class="pair"') == 2 and "<script" not in text and "http" not in text
    assert cli.run(words) == 0
    out = capsys.readouterr().out
    assert f"{row['flips']['share']:.1%} of 8 answers change" in out and "worse" in out


def test_ones_own_pictures_without_labels(tmp_path, capsys):
    one = examples("patchqa", 1, 2)[0]
    one.images[0].save(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "question": text, "answer": "unpromised"}
        for text in ("how many objects are there ?", "what is red ?")
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [
        "audit",
        "--task",
        str(tmp_path / "mine.jsonl"),
        "--methods",
        "pool",
        "--keeps",
        "0.0625",
    ]
    assert cli.run([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert not document["labelled"] and "worse" not in document["rows"][1]
    text = (tmp_path / "out" / "audit.html").read_text()
    assert "No labels were read." in text and "unpromised" not in text + json.dumps(document)


def test_a_model_as_it_was_saved(tmp_path, capsys):
    words = ["audit", "--model", "embedded-fovea", "--keeps", "9", "--limit", "4"]
    assert cli.run([*words, "--out", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["method"], row["tokens"]) for row in rows] == [("identity", 144), ("fovea", 9)]
