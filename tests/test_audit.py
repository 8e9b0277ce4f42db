"""An audit's figures, held against counts by hand; and whole audits, with labels and without."""

from __future__ import annotations

import json
import math

import pytest
import torch

from foveate import audit, cli, embedded
from foveate.audit import beside
from foveate.chat import prompt
from foveate.evaluate import replies
from foveate.evaluate.plans import Loaded, Plan, fitting, plan
from foveate.evaluate.work import Work
from foveate.hosts import attach
from foveate.methods import Stride
from foveate.registry import written
from foveate.tasks import examples

# Twenty answers: with all tokens, with fewer, whether each is right, how sure the second is, its picture.
TWENTY = [
    ("yes", "yes", 1, 1, 0.99, "a"),
    ("yes", "no", 1, 0, 0.55, "a"),
    ("no", "no", 1, 1, 0.95, "b"),
    ("No.", "no", 1, 1, 0.91, "b"),  # other words, and both right
    ("yes", "yes", 0, 0, 0.97, "c"),
    ("no", "yes", 0, 1, 0.60, "c"),
    ("red", "red", 1, 1, 0.98, "d"),
    ("red", "blue", 1, 0, 0.45, "d"),
    ("blue", "red", 0, 0, 0.50, "e"),
    ("two", "three", 0, 1, 0.65, "e"),
    ("two", "two", 1, 1, 0.92, "f"),
    ("A B", "A B", 1, 1, 0.93, "f"),
    ("A B", "A 8", 1, 0, 0.70, "g"),
    ("cat", "cat", 1, 1, 0.99, "g"),
    ("cat", "dog", 1, 0, 0.96, "h"),
    ("", "dog", 0, 0, 0.40, "h"),
    ("x", "x", 1, 1, 0.94, "i"),
    ("y", "y", 0, 0, 0.52, "i"),
    ("z", "z", 1, 1, 0.90, "j"),
    ("w", "w", 1, 1, 0.99, "j"),
]
FULL, OWN, BEFORE, AFTER, SURE, PICTURES = map(list, zip(*TWENTY, strict=True))


def test_changed_answers_by_hand():
    found = audit.changed(FULL, OWN, list(zip(BEFORE, AFTER, strict=True)), PICTURES)
    assert (found["flips"]["count"], found["flips"]["n"], found["flips"]["share"]) == (9, 20, 0.45)
    assert found["broke"]["count"] == 4 and found["mended"]["count"] == 2
    low, high = found["flips"]["interval"]
    assert 0 < low < 0.45 < high < 1
    assert "broke" not in audit.changed(FULL, OWN, None, PICTURES)


def test_yes_and_no_by_hand():
    assert audit.yes(FULL, OWN) == {"n": 6, "full": 3 / 6, "own": 3 / 6}
    assert audit.yes(["red"], ["blue"]) is None


def test_calibration_by_hand():
    found = audit.calibration(SURE, AFTER)
    assert found["brier"] == pytest.approx(
        sum((s - r) ** 2 for s, r in zip(SURE, AFTER, strict=True)) / 20
    )
    # Bins of 1/15. Each: what is promised beside what is right, over all twenty.
    bins = {
        6: (0.45 + 0.40, 0),
        7: (0.50 + 0.52, 0),
        8: (0.55, 0),
        9: (0.60 + 0.65, 2),
        10: (0.70, 0),
    }
    bins |= {13: (0.91 + 0.92 + 0.93 + 0.90, 4)}
    top = [(s, r) for s, r in zip(SURE, AFTER, strict=True) if s >= 14 / 15]
    bins |= {14: (sum(s for s, _ in top), sum(r for _, r in top))}
    assert found["ece"] == pytest.approx(sum(abs(a - b) for a, b in bins.values()) / 20)
    ranked = [r for _, r in sorted(zip(SURE, AFTER, strict=True), key=lambda pair: -pair[0])]
    risks = [sum(1 - r for r in ranked[:n]) / n for n in range(1, 21)]
    assert found["aurc"] == pytest.approx(sum(risks) / 20)


def test_sentences_that_are_no_longer_said():
    full = ["A cat sits. It is red! Is it old?", "One word"]
    own = ["It is red. A cat sits.", "Two words"]
    assert audit.lost(full, own) == {"answers": 1, "sentences": 3, "lost": 1 / 3}
    assert audit.lost(["One."], ["Two. Three."]) is None


def test_a_map_by_hand():
    found = beside.Map()
    grid = torch.tensor([[0, r, c] for r in range(2) for c in range(2)] + [[1, 0, 0], [-1, -1, -1]])
    found.add(torch.tensor([1.0, 0.0, 0.0, 0.5, 9.0, 9.0]), grid)
    half = beside.SIDE // 4
    cells = found.mean()
    assert cells[half][half] == 1.0 and cells[3 * half][3 * half] == 0.5
    assert sum(map(sum, cells)) == 1.5 and beside.Map().mean() is None


@pytest.fixture(scope="module")
def work():
    model, processor = embedded.load()
    return Work(
        Loaded(model, processor, "embedded"), "patchqa", examples("patchqa", 10), batch_size=4
    )


@torch.no_grad()
def test_the_words_of_the_full_model_are_recited(work):
    """Divergences, in batches that end unevenly, are those of plain forwards, one by one."""
    (bare, one), _ = plan([written.spec("stride(keep=9)")], [9])
    plans, _ = fitting(work.loaded, [bare, one])
    (same, _), (near, kept) = beside.recited(work, plans)
    assert all(row.first == row.whole == 0 for row in same)
    model, processor = work.loaded.model, work.loaded.processor
    for row, example in zip(near, work.examples, strict=True):
        inputs = processor(
            images=list(example.images),
            text=prompt(processor, example.question),
            return_tensors="pt",
        )
        full = model(**inputs).logits[0, -1].log_softmax(-1)
        with attach.compressed(model, Stride(9)):
            own = model(**inputs).logits[0, -1].log_softmax(-1)
        assert row.first == pytest.approx(float((full.exp() * (full - own)).sum()), abs=1e-3)
        assert row.sure == pytest.approx(float(own.max().exp()), abs=1e-3)
    assert sum(map(sum, kept.mean())) == pytest.approx(9)


def test_a_second_turn_is_about_the_same_picture(work):
    asked = beside._seconds(work)
    assert [then for _, then in asked] == [one.question for one in work.examples]
    two = [*work.examples[:2]]
    two[1] = type(two[1])(**{**vars(two[1]), "images": two[0].images})
    again = beside._seconds(Work(work.loaded, "own", two))
    assert [then for _, then in again] == [two[1].question, two[1].question]
    images, turns = beside._turns(asked[0], "a cat")
    assert [turn.role for turn in turns] == ["user", "assistant", "user"] and len(images) == 1
    (said,) = beside.again(work, [Plan("identity", 1.0)], ["a cat"] * 10)
    want = replies(work.loaded.model, work.loaded.processor, [(images, turns)], 8)
    assert said[0] == want[0].text and len(said) == 10


def run(tmp_path, capsys, *words):
    code = cli.run(["audit", *words, "--out", str(tmp_path / "out"), "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


def test_a_whole_audit(tmp_path, capsys):
    words = ["--methods", "stride,pool", "--keeps", "0.0625", "--limit", "22", "--metric", "exact"]
    words += ["--scenes", "1"]
    found = run(tmp_path, capsys, *words)
    page = (tmp_path / "out" / "audit.html").read_text()
    assert found["labels"] and [row["method"] for row in found["rows"]] == ["stride", "pool"]
    for row in found["rows"]:
        runs = (tmp_path / "out" / "runs").glob(f"*{row['method']}*")
        (answers,) = (json.loads(path.read_text())["answers"] for path in runs)
        (full,) = (tmp_path / "out" / "runs").glob("*identity*")
        whole = json.loads(full.read_text())["answers"]
        flipped = {key for key in whole if whole[key]["prediction"] != answers[key]["prediction"]}
        assert row["flips"]["count"] == len(flipped) and {*row["flipped"]} == flipped
        assert row["broke"]["count"] == sum(whole[k]["right"] > answers[k]["right"] for k in whole)
        assert row["again"]["n"] == 22 and math.isfinite(row["whole"]) and row["first"] > 0
        assert sum(group["n"] for group in row["groups"].values()) == 22
    assert found["looks"]["map"] and page.count("data:image/webp") >= 5
    assert "http" not in page.replace("http://www.w3.org", "")


def test_no_label_is_read_and_two_pictures_are_one_question(tmp_path, capsys):
    pictures = [one.images[0] for one in examples("patchqa", 3)]
    for n, picture in enumerate(pictures):
        picture.save(tmp_path / f"{n}.png")
    rows = [
        {"images": ["0.png", "1.png"], "question": "what color is the cross ?", "answer": "red"},
        {"image": "2.png", "question": "what is the background ?", "answer": "wood"},
        {"image": "2.png", "question": "what digit is handwritten ?", "answer": "5"},
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    words = ["--task", str(tmp_path / "mine.json"), "--methods", "divprune", "--keeps", "9"]
    found = run(tmp_path, capsys, *words)
    assert not found["labels"] and "accuracy" not in found["full"]
    assert "broke" not in found["rows"][0] and found["rows"][0]["flips"]["n"] == 3
    assert cli.run(["audit", "--methods", "identity"]) == 2
    assert "nothing to audit" in capsys.readouterr().err
