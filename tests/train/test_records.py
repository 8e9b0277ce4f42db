"""LLaVA files read record by record, whatever their form, and what is wrong with them."""

from __future__ import annotations

import codecs
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from foveate.train.data import MalformedError, Record, Records, Turn, index


def entry(n: int, images: int | None = None, **more) -> dict:
    """A sound record; a single image is a path, several are a list."""
    marks = "<image>\n" * (images or 0)
    found = {"id": f"r{n}", "conversations": [said("human", f"{marks}ä {n}?"), said("gpt", "ö\n")]}
    if images is not None:
        names = [f"{n}-{k}.png" for k in range(images)]
        found["image"] = names[0] if images == 1 else names
    return found | more


def said(who: str, words: str) -> dict:
    return {"from": who, "value": words}


ENTRIES = [entry(0, 1), entry(1), entry(2, 2), entry(3, 0), entry(4, 1)]
FORMS = {
    "lines": lambda values: "".join(json.dumps(v) + "\n" for v in values),
    "lines with gaps": lambda values: "\n\n".join(
        json.dumps(v, ensure_ascii=False) for v in values
    ),
    "dos lines": lambda values: "\r\n".join(json.dumps(v, ensure_ascii=False) for v in values),
    "list": lambda values: json.dumps(values),
    "pretty list": lambda values: json.dumps(values, indent=2, ensure_ascii=False) + "\n",
    "airy list": lambda values: " \n[ \n" + " ,\n".join(map(json.dumps, values)) + "\n\n]\n ",
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "train.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_form_gives_the_same_records(form, tmp_path):
    records = Records(written(tmp_path, form(ENTRIES)), tmp_path / "pictures")
    assert len(records) == 5
    assert records.has_images.tolist() == [True, False, True, False, True]
    for n, (record, source) in enumerate(zip(records, ENTRIES, strict=True)):
        assert record.id == f"r{n}"
        turns = [(turn.role, turn.text) for turn in record.turns]
        words = [turn["value"] for turn in source["conversations"]]
        assert turns == [("user", words[0]), ("assistant", words[1])]
    assert records[2].images == tuple(tmp_path / "pictures" / f"2-{k}.png" for k in range(2))
    assert records[1].images == records[3].images == ()
    assert records[-1].id == "r4"
    with pytest.raises(IndexError, match="record 5 of 5"):
        records[5]


def test_lines_are_those_of_an_editor(tmp_path):
    for text in (FORMS["pretty list"](ENTRIES), FORMS["lines with gaps"](ENTRIES)):
        records = Records(written(tmp_path, text))
        lines = text.split("\n")
        for n, record in enumerate(records):
            line = record.where.removeprefix(f'train.json: record {n + 1} ("r{n}", line ')
            line = line.removesuffix(")")
            assert lines[int(line) - 1].lstrip().startswith("{")
            assert f'"r{n}"' in "".join(lines[int(line) - 1 : int(line) + 1])


def test_a_mark_of_utf8_at_the_beginning_is_no_text(form, tmp_path):
    records = Records(written(tmp_path, codecs.BOM_UTF8 + form(ENTRIES).encode()))
    assert [record.id for record in records] == ["r0", "r1", "r2", "r3", "r4"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_where_a_chunk_ends_does_not_matter(chunk, form, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "CHUNK", chunk)
    values = [entry(n, n % 3, note='\\" {[ü€😀 -12.5e3 ] } null') for n in range(9)]
    records = Records(written(tmp_path, form(values)))
    assert [record.id for record in records] == [f"r{n}" for n in range(9)]
    assert records.has_images.tolist() == [n % 3 > 0 for n in range(9)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.dictionaries(st.text(), json_values, max_size=4), min_size=1, max_size=6),
    st.sampled_from([1, 5, 1 << 20]),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_any_json_is_found_where_it_stands(tmp_path_factory, values, chunk, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "CHUNK", chunk)
        found = index.scan(path)
    parts = [text[a : a + n] for a, n in zip(found.starts, found.sizes, strict=True)]
    assert [json.loads(part) for part in parts] == json.loads(text)
    lines = [text[:a].count(b"\n") + 1 for a in found.starts]
    assert found.lines.tolist() == lines


def test_only_numbers_are_held(tmp_path):
    """A set of many megabytes costs 33 bytes a record."""
    values = [entry(n, 1, note="x" * 9000) for n in range(300)]
    records = Records(written(tmp_path, FORMS["list"](values)))
    held = [v for v in vars(records.index).values() if isinstance(v, np.ndarray)]
    assert sum(array.nbytes for array in held) == 33 * len(records)
    assert len(pickle.dumps(records)) < 33 * len(records) + 2000


def test_workers_threads_and_pickles_read_the_same(tmp_path):
    values = [entry(n, n % 2) for n in range(64)]
    records = Records(written(tmp_path, FORMS["list"](values)))
    want = [f"r{n}" for n in range(64)]
    assert [r.id for r in pickle.loads(pickle.dumps(records))] == want
    loader = DataLoader(records, batch_size=8, num_workers=2, collate_fn=lambda rows: rows)
    assert [r.id for rows in loader for r in rows] == want
    with ThreadPoolExecutor(4) as pool:
        assert [r.id for r in pool.map(records.__getitem__, range(64))] == want


TURNS = [said("human", "?"), said("gpt", "!")]
WRONG = [
    ({"id": "a"}, ['"conversations" is missing']),
    ({"conversations": []}, ['"conversations" is empty']),
    ({"conversations": "hello"}, ['"conversations" is no list']),
    ({"conversations": [said("human", "?"), "!"]}, ["turn 2 is no object"]),
    ({"conversations": [{"from": "human"}, said("gpt", "!")]}, ['turn 1 has no "value"']),
    ({"conversations": [said("human", "?"), {"value": "!"}]}, ['turn 2 has no "from"']),
    (
        {"conversations": [said("robot", "?"), said("gpt", " \n")]},
        ["turn 1 is from 'robot'; want human or gpt", "turn 2 is an empty answer"],
    ),
    ({"conversations": [said(["gpt"], "?"), said("gpt", "!")]}, ["turn 1 is from ['gpt']"]),
    ({"conversations": [said("human", ""), said("gpt", "!")]}, ["turn 1 is an empty question"]),
    ({"conversations": [said("human", 3), said("gpt", "!")]}, ["the value of turn 1 is no text"]),
    ({"conversations": TURNS[::-1]}, ["the first turn is from gpt", "the last turn is from human"]),
    ({"conversations": [*TURNS, TURNS[1]]}, ["turns 2 and 3 are both from gpt"]),
    ({"conversations": [*TURNS, TURNS[0]]}, ["the last turn is from human"]),
    ({"image": "a.png", "conversations": TURNS}, ["0 <image> marks and 1 images"]),
    (
        {"conversations": [said("human", "<image><image>"), TURNS[1]]},
        ["2 <image> marks and 0 images"],
    ),
    (
        {"image": "a.png", "conversations": [TURNS[0], said("gpt", "<image>")]},
        ["turn 2 is an answer with an <image> mark"],
    ),
    ({"image": 3, "conversations": TURNS}, ['"image" is 3; want a path']),
    ({"image": ["a", None], "conversations": TURNS}, ["\"image\" is ['a', None]"]),
    ({"image": {"a": 1}, "conversations": TURNS}, ["\"image\" is {'a': 1}"]),
    ({"video": "a.mp4", "conversations": TURNS}, ['"video" is not read']),
    ([1], ["want an object, found list"]),
]


@pytest.mark.parametrize(("value", "faults"), WRONG)
def test_what_is_wrong_with_a_record(value, faults, tmp_path):
    records = Records(written(tmp_path, FORMS["lines"]([entry(0), value])))
    assert records[0].id == "r0"
    with pytest.raises(MalformedError) as caught:
        records[1]
    named = '"a", ' if isinstance(value, dict) and "id" in value else ""
    assert caught.value.where == f"train.json: record 2 ({named}line 2)"
    found = [what for _, what in caught.value.faults]
    assert len(found) == len(faults)
    assert all(what.startswith(start) for what, start in zip(found, faults, strict=True))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.faults == caught.value.faults


def test_a_broken_line_is_named_when_it_is_read(tmp_path):
    text = FORMS["lines"]([entry(0)]) + '{"id": 1, oh}\n' + FORMS["lines"]([entry(2)])
    records = Records(written(tmp_path, text))
    assert len(records) == 3 and records[2].id == "r2"
    with pytest.raises(
        MalformedError, match=r"train\.json: record 2 \(line 2\): broken JSON: Expecting"
    ):
        records[1]


BROKEN = [
    ('[{"a": 1},\n{"a": 2\n,, 3},\n{}]', "record 2 (line 3): broken JSON: Expecting property name"),
    ('[{"a": 1},\n', "record 2 (line 2): broken JSON: want an object, found ''"),
    ('[{"a": 1}\n{"a": 2}]', "record 1 (line 2): broken JSON: want ',', found '{'"),
    ('[{"a": 1},\n]', "record 2 (line 2): broken JSON: want an object, found ']'"),
    ('[{"a": 1}, 3]', "record 2 (line 1): broken JSON: want an object, found '3'"),
    ('[{"a": 1}]\n\n[]', "record 1 (line 3): broken JSON: something stands behind the list"),
    ('[{"a": 1},\n{"a": "2}]', "record 2 (line 2): broken JSON: Unterminated string"),
    ('[{"a": 1}', "record 1 (line 1): broken JSON: ends without ','"),
    (b'[{"a": 1},\n{"a": "\xff"}]', "train.json (line 1): broken JSON: no UTF-8 here or below"),
    ("[]", "holds no record"),
    ("\n \n", "holds no record"),
    ("", "holds no record"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_broken_list_says_in_which_line(text, message, tmp_path):
    with pytest.raises(ValueError, match=r"train\.json") as caught:
        Records(written(tmp_path, text))
    assert message in str(caught.value)


def test_a_broken_list_is_not_read_to_its_end(tmp_path, monkeypatch):
    """An error in the first lines of a large file is one; only what a chunk cut off is read on."""
    monkeypatch.setattr(index, "CHUNK", 1000)
    path = written(tmp_path, '[{"a": oh},\n' + "\n" * 100_000)
    with path.open("rb") as file:
        reader = index.Reader(file, path)
        with pytest.raises(ValueError, match="line 1"):
            list(index.elements(reader))
        assert file.tell() <= 3000


def test_a_record_is_a_value():
    made = Record("a", (Path("b.png"),), (Turn("user", "<image>"),), "x, line 1")
    assert made == pickle.loads(pickle.dumps(made)) and hash(made)
