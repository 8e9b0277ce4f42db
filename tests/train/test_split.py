"""A row for every question: its own answer learnt, what was said before it read, later images unseen."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import replace

import pytest
import small
import torch
from processors import MAKERS, processor, record
from test_run import Stream

from foveate.cli import run as command
from foveate.train import Collator, DataError, Record, Records, run
from foveate.train.data import by_question

READS = {"method": "meteor", "arguments": {"keep": 5, "hidden": 16, "depth": 1}}


LATE = ["Hello?", "Yes.", "<image>\nWhat is it?", "A cat."]
LATE += ["And <image>?", "A dog.", "Sure?", "No."]
SOME = [record("<image>\nOne?", "a"), record(*LATE), record("No image?", "Yes.", "Sure?", "No.")]


def value(one: Record) -> dict:
    """A record as a file has it; its images are files of that name."""
    roles = {"user": "human", "assistant": "gpt"}
    turns = [{"from": roles[turn.role], "value": turn.text} for turn in one.turns]
    return {"image": [f"{n}.png" for n in range(len(one.images))], "conversations": turns}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(json.dumps([value(one) for one in SOME]))
    for n, source in enumerate(SOME[1].images):
        source.save(tmp_path / f"{n}.png")
    return path


def test_rows_in_the_files_order(file):
    rows = by_question(Records(file, file.parent))
    assert len(rows) == 7 and len(list(rows)) == 7
    assert [row.turns[-1].text for row in rows] == ["a", *LATE[1::2], "Yes.", "No."]
    assert [row.past for row in rows] == [0, 0, 1, 2, 3, 0, 1]
    assert [len(row.turns) for row in rows] == [2, 2, 4, 6, 8, 2, 4]
    assert [len(row.images) for row in rows] == [1, 0, 1, 2, 2, 0, 0]
    assert rows.has_images.tolist() == [bool(row.images) for row in rows]
    assert rows[2].where == "set.json: record 2 (line 1), question 2"
    assert rows[0].where == "set.json: record 1 (line 1)"
    assert rows[-1] == rows[6] == pickle.loads(pickle.dumps(rows))[6]
    with pytest.raises(IndexError, match="row 7 of 7"):
        rows[7]


def test_data_of_any_kind_give_the_same_rows(file):
    """Counted from the file, read once, or as they come."""
    want = [row.turns for row in by_question(Records(file, file.parent))]
    listed, streamed = by_question(SOME), by_question(Stream(SOME))
    assert [row.turns for row in listed] == [listed[n].turns for n in range(len(listed))] == want
    assert listed.has_images.tolist() == [True, False, True, True, True, False, False]
    assert [row.turns for row in streamed] == want
    assert not hasattr(streamed, "__len__")
    assert by_question(None) is None and len(by_question([])) == 0


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"embedded"}))
def test_one_answer_is_learnt_and_every_answer_once(name):
    """Together the rows teach what the whole conversation does; each asks all that was asked so far."""
    made = Collator(processor(name))
    spell = processor(name).tokenizer.decode
    whole = made([SOME[1]])
    taught, ids = whole["labels"][0] != -100, whole["input_ids"][0]
    found = torch.zeros_like(taught)
    for n, row in enumerate(list(by_question(SOME))[1:5]):
        batch = made([row])
        learnt, asked = batch["labels"][0] != -100, batch["instruction_mask"][0]
        assert torch.equal(batch["input_ids"][0], ids[: len(learnt)])
        assert not found[: len(learnt)][learnt].any()
        found[: len(learnt)] |= learnt
        assert LATE[2 * n + 1] in spell(batch["input_ids"][0][learnt])
        words = "".join(spell(batch["input_ids"][0][asked]).split())
        assert words == "".join("".join(LATE[: 2 * n + 1 : 2]).replace("<image>", "").split())
    assert torch.equal(found, taught)


def test_a_reader_answers_first_without_the_later_question(card, tmp_path):
    """The first row's loss is that of a record that asks nothing more; unsplit it knows what comes."""
    still = {**READS, "trains": {"language": 1e-30}, "order": "sequential", "batch": 1, "steps": 2}
    still["micro_batch"] = 1
    asks, other = (("<image>\nWhat?", "a cat", words, "no") for words in ("Is it red?", "A dog?"))

    def first(name, *texts, **changes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return small.losses(run(card(**still, **changes), tmp_path / name, [record(*texts)]))

    split, again = first("split", *asks, split=True), first("again", *other, split=True)
    alone = first("alone", *asks[:2])
    assert split[0] == again[0] == alone[0]
    assert split[1] != again[1]


def test_grouped_batches_are_of_one_modality(file, card, tmp_path):
    """Of a record whose image comes late, the rows before it are text."""
    from foveate.train.trainer import ordered

    recipe = card(data=str(file), order="grouped", split=True, batch=2, micro_batch=2)
    rows = by_question(Records(file, file.parent))
    drawn = list(ordered(recipe, rows))
    assert {*drawn} == {*range(7)} and len(drawn) == 8
    for k in range(0, 8, 2):
        assert len({bool(rows[n].images) for n in drawn[k : k + 2]}) == 1


def test_epochs_count_rows(card, tmp_path):
    """Thirty records, half of which ask twice: 45 rows in batches of eight are six steps."""
    done = run(card(steps=None, split=True), tmp_path / "out")
    assert (done["records"], done["rows"], done["steps"]) == (30, 45, 6)


def test_what_is_validated_is_split_too(card, data, tmp_path):
    """Nothing is learnt; what is read with an answer is what was asked until then, or all of it."""
    still = {**READS, "trains": {"compressor": 1e-30}, "steps": 1, "log_every": 1}
    checked = {**still, "validation": str(data), "evaluate_every": 1}
    found = []
    for split in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            history = run(card(**checked, split=split), tmp_path / str(split))["history"]
        found += [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    first, second = found
    assert first != second


def test_faults_are_named_as_the_file_has_them(card, file, tmp_path):
    found = json.loads(file.read_text())
    found[1]["conversations"][6]["from"] = "robot"
    found[2]["conversations"] = "none"
    file.write_text(json.dumps(found))
    told = card(data=str(file), images=str(file.parent), split=True)
    with pytest.raises(DataError) as caught:
        run(told, tmp_path / "out")
    *problems, summary = str(caught.value).splitlines()
    assert len(problems) == 2 and "robot" in problems[0] and "is no list" in problems[1]
    assert summary == f"2 problems in {file}"
    with pytest.raises(ValueError, match="is no list"):  # unchecked, it is met when it is read
        by_question(Records(file, file.parent))[-1]


def test_who_reads_several_questions_at_once_is_warned(card, tmp_path):
    """At the start, with the number; of data that do not know theirs, at the first such row, once."""
    with pytest.warns(UserWarning, match=r"15 of 30 records ask several questions: .*split=True"):
        run(card(**READS, steps=1), tmp_path / "file")
    with pytest.warns(UserWarning, match=r"line 7 asks several questions: .*split=True") as told:
        run(card(**READS, steps=2, workers=0), tmp_path / "list", SOME * 8)
    assert len([one for one in told if "several questions" in str(one.message)]) == 1
    run(card(**READS, steps=1, split=True), tmp_path / "split")  # warnings are errors
    run(card(steps=1), tmp_path / "deaf")
    run(card(method="fastv", arguments={"keep": 5, "layer": 1}, steps=1), tmp_path / "fastv")
    singles = [replace(one, turns=one.turns[:2], images=one.images[:1]) for one in SOME[::2]] * 8
    run(card(**READS, steps=1), tmp_path / "singles", singles)


def test_on_the_command_line(capsys, card, file, tmp_path):
    """What is said of rows; and without them, a reader of the questions is warned in one line."""
    changes = {**READS, "trains": {"compressor": 1e-2}, "batch": 2, "micro_batch": 2, "steps": 1}
    recipe = card(data=str(file), images=str(file.parent), **changes)
    line = ["train", *small.words(replace(recipe, split=True)), "--out", str(tmp_path / "rows")]
    assert command(line) == 0
    assert "3 records in 7 rows" in capsys.readouterr().out
    assert json.loads((tmp_path / "rows" / "training.json").read_text())["recipe"]["split"] is True
    assert command(["train", *small.words(recipe), "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "2 of 3 records ask several questions" in err and err.count("split=True") == 1
    assert ".py" not in err and "UserWarning" not in err
