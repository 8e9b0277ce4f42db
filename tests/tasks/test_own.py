"""Questions of one's own: every form gives the same ones, and what is wrong is said before the first."""

from __future__ import annotations

import csv
import io
import json
import random
import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image

from foveate import cli, embedded
from foveate.chat import Turn
from foveate.evaluate import ask, compare, evaluate
from foveate.evaluate.likelihood import likeliest
from foveate.records.checking import DataError
from foveate.records.questions import Questions
from foveate.tasks.hub import HubQuestions
from foveate.tasks.metrics import METRICS
from foveate.tasks.own import Own, is_own, task

VALUES = [
    {
        "id": "a",
        "image": "red.png",
        "question": "what colour ?",
        "answer": "red",
        "group": "colours",
    },
    {
        "id": "b",
        "images": ["red.png", "blue.png"],
        "question": "which is\nblue ?",
        "answers": ["2", "ä"],
    },
    {"id": "c", "image": "blue.png", "question": "no label ?"},
    {
        "id": "d",
        "image": "blue.png",
        "question": "pick",
        "answer": "B",
        "choices": ["one, two", "three"],
    },
]


def table(values, mark=","):
    """The same as a table, lists as JSON."""
    out = io.StringIO()
    names = ("id", "image", "images", "question", "answer", "answers", "choices", "group")
    rows = csv.DictWriter(out, names, delimiter=mark)
    rows.writeheader()
    for value in values:
        rows.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in value.items()})
    return out.getvalue()


FORMS = {
    "mine.json": json.dumps,
    "mine.jsonl": lambda values: "\n\n".join(map(json.dumps, values)),
    "mine.csv": table,
    "mine.tsv": partial(table, mark="\t"),
}


@pytest.fixture
def folder(tmp_path):
    for name in ("red", "blue"):
        Image.new("RGB", (16, 16), name).save(tmp_path / f"{name}.png")
    return tmp_path


def written(folder, values, name="mine.jsonl"):
    path = folder / name
    path.write_text(FORMS[name](values), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_questions(folder, form):
    found = task(str(written(folder, VALUES, form))).examples
    assert [q.id for q in found] == list("abcd") and found.keys == ["1", "2", "3", "4"]
    assert [[p.name for p in q.images] for q in found] == [
        ["red.png"],
        ["red.png", "blue.png"],
        *[["blue.png"]] * 2,
    ]
    assert [q.question for q in found] == [value["question"] for value in VALUES]
    assert [q.answers for q in found] == [("red",), ("2", "ä"), (), ("B",)]
    assert found[3].choices == ("one, two", "three") and found[0].group == "colours"
    assert [q.key for q in found[1:3]] == ["2", "3"]


def test_a_saved_data_set_gives_them_too(folder):
    datasets = pytest.importorskip("datasets")
    rows = {
        "picture": [str(folder / "red.png"), str(folder / "blue.png")],
        "query": ["what colour ?", "and here ?"],
        "label": ["red", None],
        "stars": [1, 2],
    }
    data = datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image())
    data.save_to_disk(folder / "saved")
    own = Own(columns={"image": "picture", "question": "query", "answer": "label"})
    with pytest.warns(UserWarning, match="'stars' in 2"):
        found = task(str(folder / "saved"), own=own).examples
    assert isinstance(found, HubQuestions)
    assert [(q.question, q.answers) for q in found] == [
        ("what colour ?", ("red",)),
        ("and here ?", ()),
    ]
    assert found[1].images[0].getpixel((0, 0))[:3] == (0, 0, 255)
    assert found.digest != found.only(np.arange(1)).digest
    data = data.remove_columns("stars")
    data.save_to_disk(folder / "again")
    with pytest.raises(ValueError, match="no column 'colour'; there are picture, query"):
        task(str(folder / "again"), own=Own(columns={"answer": "colour"}))
    datasets.DatasetDict(test=data).save_to_disk(folder / "splits")
    assert len(task(f"hf:{folder / 'splits'}:test", own=own).examples) == 2
    with pytest.raises(ValueError, match="want a split of test"):
        task(f"hf:{folder / 'splits'}", own=own)


def test_a_conversation_is_asked_question_by_question(folder):
    said = [("human", "<image>\nwhat ?"), ("gpt", "a dog"), ("human", "sure ?"), ("gpt", "yes")]
    turns = [{"from": who, "value": words} for who, words in said]
    path = written(folder, [{"id": "t", "image": "red.png", "conversations": turns}, VALUES[0]])
    found = task(str(path)).examples
    assert found.keys == ["1.1", "1.2", "2"]
    assert [(q.question, q.answers) for q in found] == [
        ("what ?", ("a dog",)),
        ("sure ?", ("yes",)),
        ("what colour ?", ("red",)),
    ]
    assert found[1].told == (
        Turn("user", "<image>\nwhat ?"),
        Turn("assistant", "a dog"),
        Turn("user", "sure ?"),
    )
    assert "record 1" in found[1].where and "question 2" in found[1].where


def test_what_was_said_before_stands_in_the_prompt(folder):
    from foveate.evaluate import encode

    _, processor = embedded.load()
    turns = (Turn("user", "<image>\nwhat ?"), Turn("assistant", "red"), Turn("user", "where ?"))
    batch, words = encode(
        processor, [((folder / "red.png",), turns), ((folder / "red.png",), "what ?")]
    )
    texts = processor.batch_decode(batch["input_ids"], skip_special_tokens=False)
    assert texts[0].endswith("what ? assistant : red </s> user : where ? assistant :")
    heard = processor.decode(batch["input_ids"][0][words[0]])
    assert "what" in heard and "where" in heard and "red" not in heard


WRONG = {
    "no object": (3, "want an object, found int"),
    "no image": ({"question": "x"}, "names no image"),
    "no question": ({"image": "red.png"}, '"question" is missing'),
    "empty": ({"image": "red.png", "question": " "}, '"question" is empty'),
    "both": (
        {"image": "red.png", "question": "x", "answer": "a", "answers": ["b"]},
        "want one of them",
    ),
    "no text": ({"image": "red.png", "question": "x", "answer": {"a": 1}}, "is no text"),
    "one choice": (
        {"image": "red.png", "question": "x", "choices": ["a"]},
        "want a list of 2 to 26",
    ),
    "twice": ({"image": "red.png", "question": "x", "choices": ["a", "a"]}, "has one twice"),
    "marks": ({"image": "red.png", "question": "<image> <image>?"}, "2 <image> marks and 1 images"),
    "a video": ({"video": "a.mp4", "question": "x"}, "no such video: "),
    "missing": ({"image": "no.png", "question": "x"}, "no such image"),
    "outside": ({"image": "../no.png", "question": "x"}, "--outside"),
    "half": ({"image": "red.png", "question": "\ud800"}, "half a character"),
    "late": (
        {
            "image": "red.png",
            "conversations": [
                {"from": w, "value": v}
                for w, v in [("human", "a"), ("gpt", "b"), ("human", "<image>"), ("gpt", "c")]
            ],
        },
        "the first question comes without an image",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_can_be_left_out(folder, name):
    value, says = WRONG[name]
    path = written(folder, [VALUES[0], value, VALUES[2]])
    with pytest.raises(DataError, match=r"(?s)record 2.*--skip, or skip=True") as told:
        task(str(path))
    assert says in str(told.value)
    with pytest.warns(
        UserWarning, match=r"of \d questions (is|are) left out, the first: mine.jsonl: record 2"
    ):
        left = task(str(path), own=Own(skip=True)).examples
    assert left.keys == ["1", "3"] and [q.id for q in left] == ["a", "c"]
    assert left.digest != task(str(written(folder, [VALUES[0], VALUES[2]]))).examples.digest


def test_tables(folder):
    (folder / "mine.csv").write_text("image,query\nred.png,x\nred.png,y,z\n")
    with pytest.raises(DataError, match=r"record 2 \(line 3\): 3 cells under 2 names"):
        task(str(folder / "mine.csv"), own=Own(columns={"question": "query"}))
    with pytest.raises(ValueError, match="no column 'question2'; there are image, query"):
        task(str(folder / "mine.csv"), own=Own(columns={"question": "question2"}))


def test_the_metric_looks_at_the_labels(folder):
    path = str(written(folder, VALUES))
    with pytest.raises(DataError, match='want at least 2 "choices", there are 0'):
        task(path, own=Own(metric="choice"))
    with pytest.raises(ValueError, match="unknown metric 'choises': nearest: choice"):
        Own(metric="choises")
    with pytest.raises(ValueError, match="metric choice on patchqa"):
        task("patchqa", 1, own=Own(metric="choice"))
    with pytest.raises(ValueError, match="are for files"):
        task("patchqa", 1, own=Own(skip=True))
    assert task("patchqa", 1, own=Own(metric="contains")).metric.name == "contains"
    assert is_own(path) and is_own("hf:a/b:test") and not is_own("patchqa")


@pytest.fixture(scope="module")
def shop():
    return embedded.load()


def test_own_questions_are_evaluated(shop, folder):
    values = [{**VALUES[0], "answer": "blue"}, VALUES[0], VALUES[2], {**VALUES[1], "group": "two"}]
    path = written(folder, values)
    found = evaluate(*shop, "stride", 36, task=str(path), batch_size=3)
    assert (
        found["n"] == 4
        and found["scored"] == 3
        and set(found["accuracy"]) == {"overall", "colours", "two"}
    )
    assert found["answers"]["3"]["right"] is None and found["answers"]["1"]["id"] == "a"
    right = [found["answers"][key]["right"] for key in ("1", "2", "4")]
    assert found["accuracy"]["overall"] == pytest.approx(sum(right) / 3)
    assert found["answers"]["4"]["before"] == 144 and found["answers"]["4"]["after"] == 36
    both = compare(*shop, "stride", [0.25], task=str(path), metric="contains", limit=2)
    assert [run["n"] for run in both["runs"]] == [2, 2]
    alone = evaluate(*shop, task=str(path), metric="none")
    assert alone["accuracy"] == {"overall": None, "colours": None, "two": None}
    assert all(answer["seconds"] > 0 for answer in alone["answers"].values())


def test_the_likeliest_choice_needs_no_words(shop, folder):
    """The loss of a choice behind the prompt is that of the whole text at once, padded or alone."""
    from foveate import Stride, compressed

    model, processor = shop
    values = [
        {**VALUES[0], "choices": ["red", "a blue circle"]},
        {**VALUES[3], "question": "what number of things ?"},
    ]
    found = task(str(written(folder, values)), own=Own(metric="likelihood"))
    asks, choices = (
        [ask(q, found.metric) for q in found.examples],
        [q.choices for q in found.examples],
    )
    with compressed(model, Stride(keep=36)):
        together = likeliest(model, processor, asks, choices)
        apart = [
            likeliest(model, processor, [a], [c])[0] for a, c in zip(asks, choices, strict=True)
        ]
    assert [r.text for r in together] == [r.text for r in apart]
    assert [r.after for r in together] == [36, 36]
    scored = evaluate(
        model, processor, "stride", 36, task=str(folder / "mine.jsonl"), metric="likelihood"
    )
    assert {a["prediction"] for a in scored["answers"].values()} <= {"A", "B"}


def test_a_large_file_is_never_held(folder):
    """36 bytes a record would be 1.2 MB for 50,000; their text is 6 MB."""
    path = folder / "mine.jsonl"
    line = json.dumps({"image": "red.png", "question": "x" * 80, "answer": "red"}) + "\n"
    path.write_text(line * 50_000)
    tracemalloc.start()
    found = Questions(path)
    assert found[49_999].key == "50000" and found.digest
    assert tracemalloc.get_traced_memory()[0] < 3_000_000
    tracemalloc.stop()


def mutated(text: bytes, dice: random.Random) -> bytes:
    """Cut, doubled, flipped, filled with strange letters, somewhere."""
    for _ in range(dice.randint(1, 4)):
        at, to = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        strange = dice.choice(
            [
                b"",
                b"\x00",
                b"\xff\xfe",
                b'"',
                b",",
                b"\n",
                b"[[[",
                b"{}",
                b"null",
                b"1e999",
                b"<image>",
            ]
        )
        text = dice.choice(
            [text[:at] + strange + text[at:], text[:at] + text[to:], text[:at], text + text[at:to]]
        )
    return text


@pytest.mark.parametrize("form", FORMS)
def test_malformed_files_are_told_and_never_surprise(folder, form):
    """75 of each form: read, or refused with what is wrong."""
    dice, sound = random.Random(form), FORMS[form](VALUES).encode()
    refused = 0
    for _ in range(75):
        (folder / form).write_bytes(mutated(sound, dice))
        own = Own(metric=dice.choice([*METRICS]), skip=dice.random() < 0.3)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for question in task(str(folder / form), own=own).examples:
                    ask(question, METRICS[own.metric])
        except ValueError as error:
            refused += 1
            assert str(error).strip()
    assert refused > 20


def test_the_command_line(folder, capsys):
    path = str(written(folder, VALUES))
    line = ["eval", "--task", path, "--device", "cpu", "--max-new-tokens", "2"]
    assert cli.run([*line, "--answers-only", "--out", str(folder / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    told = [json.loads(one) for one in (folder / "out" / "answers.jsonl").read_text().splitlines()]
    keys = {"key", "id", "question", "answer", "before", "after", "seconds"}
    assert [one["id"] for one in told] == list("abcd") and told[0].keys() == keys
    said = [one["prediction"] for one in document["answers"].values()]
    assert [one["answer"] for one in told] == said
    assert cli.run([*line, "--answers-only", "--metric", "vqa"]) == 2
    assert "answers alone have no score" in capsys.readouterr().err
    assert cli.run([*line, "--metric", "vqa"]) == 2
    assert "mine.jsonl: record 1" in (said := capsys.readouterr().err) and said.count("\n") == 4
    assert cli.run([*line, "--columns", "querstion=question"]) == 2
    assert "nearest: question" in capsys.readouterr().err
    assert cli.run(["eval", "--task", str(folder / "no.json")]) == 2
    assert "no such file" in capsys.readouterr().err
    unlabelled = str(written(folder, [VALUES[2]], "mine.json"))
    assert cli.run(["compare", "--task", unlabelled, "--out", str(folder / "o")]) == 2
    assert "none of 1 questions has an answer" in capsys.readouterr().err


def test_a_list_in_a_cell_is_one_whatever_its_name(folder):
    (folder / "mine.csv").write_text('image,question,answer\nred.png,x,"[""a"", ""b""]"\n')
    with pytest.raises(DataError, match='several go into "answers"'):
        task(str(folder / "mine.csv"))
    found = task(str(folder / "mine.csv"), own=Own(columns={"answers": "answer"})).examples
    assert found[0].answers == ("a", "b")


def test_what_people_get_wrong_first(folder):
    """Each was tried by somebody who had never seen the page."""
    with pytest.raises(DataError, match="'qestion' is not read"), pytest.warns(UserWarning):
        task(str(written(folder, [{"image": "red.png", "qestion": "x"}])))
    (folder / "mine.csv").write_text("image;question\nred.png;x\n")
    with pytest.raises(ValueError, match="separated by semicolons"):
        task(str(folder / "mine.csv"))
    (folder / "mine.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"want a file of \.json"):
        task(str(folder / "mine.parquet"))
    with pytest.raises(ValueError, match="`datasets` did not save"):
        task(str(folder))
    with pytest.raises(ValueError, match="no such folder"):
        task(str(written(folder, VALUES)), own=Own(images=folder / "nowhere"))
    with pytest.raises(TypeError, match="want a dict"):
        Own(columns="question=query")
    with pytest.raises(DataError, match="want its letter or its words"):
        task(str(written(folder, [{**VALUES[3], "answer": 7}])), own=Own(metric="choice"))


def test_an_interval_never_claims_certainty():
    from foveate.evaluate import bootstrap

    for values in ([1, 0, 1, 0], [1, 1, 1, 1], [0.5] * 4):
        low, high = bootstrap(values, ["a", "a", "b", "b"])
        assert low < sum(values) / 4 + 1e-9 and high - low > 0.3
    assert bootstrap([1, 0], ["a", "a"]) == (0.0, 1.0)
    low, high = bootstrap([1, 0] * 200, range(400))
    assert 0.44 < low < 0.46 and 0.54 < high < 0.56
    wide = bootstrap([1, 1, 0, 0] * 100, [n // 2 for n in range(400)])
    assert wide[1] - wide[0] > 1.3 * (
        high - low
    )  # two of each picture agree: half as much is known


def test_the_board_tells_metrics_apart_and_leaves_out_what_has_no_answer(folder, capsys):
    path = str(written(folder, [VALUES[0], VALUES[2], {**VALUES[1], "answers": ["red"] * 9}]))
    line = ["leaderboard", "--tasks", path, "--methods", "stride", "--keeps", "0.25", "--no-timing"]
    line += [
        "--trained",
        "",
        "--device",
        "cpu",
        "--out",
        str(folder / "runs"),
        "--pages",
        str(folder),
    ]
    assert cli.run([*line, "--json"]) == 0
    found = capsys.readouterr()
    assert "1 of 3 questions are left out" in found.err
    rows = json.loads(found.out)["rows"]
    assert {row["n"] for row in rows} == {2} and {row["task"] for row in rows} == {"mine"}
    files = {file.name for file in (folder / "runs").glob("*.json")}
    assert cli.run([*line, "--metric", "contains", "--list"]) == 0
    assert "done" not in capsys.readouterr().out
    assert cli.run([*line, "--metric", "contains"]) == 0
    more = {file.name for file in (folder / "runs").glob("*.json")} - files
    assert len(more) == len(files) and all("contains" in name for name in more)
    page = (folder / "leaderboard.md").read_text()
    assert "## mine, contains" in page and "synthetic" not in page
