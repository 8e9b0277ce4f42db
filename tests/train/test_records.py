"""LLaVA files read record by record, whatever their form, and what is wrong with them."""

from __future__ import annotations

import codecs
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from foveate.records import index
from foveate.records.shape import shape, strange
from foveate.train.data import MalformedError, Record, Records, Turn, by_question, check


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
plain = partial(json.dumps, ensure_ascii=False)
FORMS = {
    "lines": lambda values: "".join(json.dumps(v) + "\n" for v in values),
    "lines with gaps": lambda values: "\n\n".join(map(plain, values)),
    "dos lines": lambda values: "\r\n".join(map(plain, values)),
    "list": json.dumps,
    "pretty list": lambda values: plain(values, indent=2) + "\n",
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
        found = index.scan(path, shape, strange)
    parts = [text[a : a + n] for a, n in zip(found.starts, found.sizes, strict=True)]
    assert [json.loads(part) for part in parts] == json.loads(text)
    lines = [text[:a].count(b"\n") + 1 for a in found.starts]
    assert found.lines.tolist() == lines


def test_only_numbers_are_held(tmp_path):
    """A set of many megabytes costs 36 bytes a record."""
    values = [entry(n, 1, note="x" * 9000) for n in range(300)]
    records = Records(written(tmp_path, FORMS["list"](values)))
    held = [v for v in vars(records.index).values() if isinstance(v, np.ndarray)]
    assert sum(array.nbytes for array in held) == 36 * len(records)
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


human, gpt, system = (partial(said, who) for who in ("human", "gpt", "system"))
ASKED, TOLD = TURNS = [human("?"), gpt("!")]


def talk(*turns, **more) -> dict:
    """A record of these turns, or of the two above."""
    return {**more, "conversations": list(turns or TURNS)}


WRONG = [
    ({"id": "a"}, '"conversations" is missing'),
    ({"conversations": []}, '"conversations" is empty'),
    ({"conversations": "hello"}, '"conversations" is no list'),
    (talk(ASKED, "!"), "turn 2 is no object"),
    (talk({"from": "human"}, TOLD), 'turn 1 has no "value"'),
    (talk(ASKED, {"value": "!"}), 'turn 2 has no "from"'),
    (
        talk(said("robot", "?"), gpt(" \n")),
        "turn 1 is from 'robot'; want human or gpt",
        "turn 2 is an empty answer",
    ),
    (talk(said(["gpt"], "?"), TOLD), "turn 1 is from ['gpt']"),
    (talk(human(""), TOLD), "turn 1 is an empty question"),
    (talk(human(3), TOLD), "the value of turn 1 is no text"),
    (talk(TOLD, ASKED), "the first turn is from gpt", "the last turn is from human"),
    (talk(*TURNS, TOLD), "turns 2 and 3 are both from gpt"),
    (talk(*TURNS, ASKED), "the last turn is from human"),
    (talk(image="a.png"), "0 <image> marks and 1 images"),
    (talk(human("<image><image>"), TOLD), "2 <image> marks and 0 images"),
    (talk(ASKED, gpt("<image>"), image="a.png"), "turn 2 is an answer with an <image> mark"),
    (talk(image=3), '"image" is 3; want a path'),
    (talk(image=["a", None]), "\"image\" is ['a', None]"),
    (talk(image={"a": 1}), "\"image\" is {'a': 1}"),
    (talk(human("<image>"), TOLD, video="a.mp4"), "a.mp4 is a video, which training does not read"),
    (
        talk(human("<image>"), TOLD, images=["a.mp4"]),
        "a.mp4 is a video, which training does not read",
    ),
    (talk(image=float("nan")), '"image" is nan; want a path'),
    (talk(images="a.png", image=["b.png"]), '"image" and "images" name dif'),
    (talk(images=[3]), '"images" is [3]; want a path'),
    (talk(image="\ud800.png"), "'\\ud800.png' can be no file's path"),
    (talk(image="a\0.png"), "'a\\x00.png' can be no file's path"),
    (talk(image=["x" * 99, 3]), f'"image" is [\'{"x" * 78}…; want'),
    (talk(human("a \udfff"), TOLD), "turn 1 holds '\\udfff', half a char"),
    (talk(ASKED, gpt("\ud800")), "turn 2 holds '\\ud800', half a char"),
    (talk(system="\ud800"), "\"system\" holds '\\ud800', half"),
    (talk(system=3), '"system" is 3; want text'),
    (talk(system="<image>"), '"system" has an <image> mark'),
    (
        talk(system("Be brief."), *TURNS, system="Be kind."),
        '"system" and turn 1 say different things',
    ),
    (talk(system("Be brief.")), "turn 1 is from system and no other follows"),
    (talk(*TURNS, system("x"), *TURNS), "turn 3 is from system; want that in"),
    (talk(system("<image>"), *TURNS, image="a"), "turn 1 is a system prompt with an <image> mark"),
    ({"messages": []}, '"conversations" is missing; "messages" is not read, want turns of "from"'),
    (
        talk({"role": "user", "content": "?"}),
        'turn 1 has no "from"; "role" is not read',
        'turn 1 has no "value"; "content" is not read',
    ),
    ([1], "want an object, found list"),
]


@pytest.mark.parametrize("value, faults", [(value, faults) for value, *faults in WRONG])
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


def test_images_are_read_as_image_is(form, tmp_path):
    ways = [{"images": ["a.png"]}, {"images": "a.png", "image": ["a.png"]}]
    ways.append({"images": ["a.png"], "image": None})
    values = [talk(human("<image>?"), TOLD, **way) for way in ways] + [talk(images=[], image=None)]
    records = Records(written(tmp_path, form(values)), tmp_path)
    assert [record.images for record in records] == [(tmp_path / "a.png",)] * 3 + [()]
    assert records.has_images.tolist() == [True, True, True, False]


def test_a_system_prompt_becomes_a_turn(form, tmp_path):
    """Whether it is the first turn or beside the turns; an empty one is none."""
    brief = system("Be brief.")
    told = [Turn("system", "Be brief."), Turn("user", "?"), Turn("assistant", "!")]
    values = [
        talk(brief, *TURNS),
        talk(system="Be brief."),
        talk(brief, *TURNS, system="Be brief."),
        talk(system(""), *TURNS, system=" "),
        talk(brief, *TURNS, human("<image>?"), TOLD, image="a.png"),
    ]
    records = Records(written(tmp_path, form(values)))
    assert [[*record.turns] for record in list(records)[:4]] == [told, told, told, told[1:]]
    assert records.questions.tolist() == [1, 1, 1, 1, 2]
    assert records.imaged.tolist() == [0, 0, 0, 0, 1]
    counts = by_question([*records])
    assert counts.questions.tolist() == records.questions.tolist()
    rows = by_question(records)
    assert [row.turns[0].role for row in rows][-2:] == ["system", "system"]
    assert [len(row.images) for row in rows][-2:] == [0, 1]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *(("coco-17", '"coco-17", '), ("é", '"é", '), (0, "0, "), (1.5, "1.5, ")),
        *(("a\nb", r'"a\nb", '), ("\ud800", r'"\ud800", '), ("x" * 70, f'"{"x" * 60}…", ')),
        *((none, "") for none in (None, "", True, ["a"])),
    ],
)
def test_a_record_is_named_by_number_and_id(tmp_path, name, shown):
    """All records of a list may stand in one line."""
    records = Records(written(tmp_path, json.dumps([entry(0), entry(1) | {"id": name}])))
    assert records[1].where == f"train.json: record 2 ({shown}line 1)"
    records[1].where.encode()
    if name is None:
        assert records[1].id == "1"


def test_keys_that_nothing_reads_are_counted(form, tmp_path):
    strange = {"from": "gpt", "value": "!", "weight": 0}
    values = [
        entry(0, 1, model="x", width=3, height=4),
        entry(1, width=3, source=None),
        talk(*TURNS, ASKED, strange, ASKED, strange),
    ]
    found = Records(written(tmp_path, form(values))).unknown
    assert found == {"width": 2, "height": 1, "source": 1, "conversations.weight": 1}
    many = [entry(n, **{f"key {n}": 0}) for n in range(1200)]
    found = Records(written(tmp_path, form(many))).unknown
    assert len(found) == 1001 and found["…"] == 200


def test_records_without_some_keep_their_numbers(form, tmp_path):
    records = Records(written(tmp_path, form(ENTRIES)), tmp_path)
    some = records.without([0, 3])
    assert [record.id for record in some] == ["r1", "r2", "r4"]
    assert [record.where for record in some] == [records[n].where for n in (1, 2, 4)]
    assert some.has_images.tolist() == [False, True, True] and some[-1] == records[4]
    again = pickle.loads(pickle.dumps(some.without([1])))
    assert [record.where for record in again] == [records[n].where for n in (1, 4)]
    assert len(records) == 5


@pytest.fixture
def escapes(tmp_path):
    """A folder of pictures, a link in it that leads out, and a record for each way out or in."""
    inside, other = tmp_path / "in", tmp_path / "in and out"
    for folder in (inside, other):
        folder.mkdir()
        (folder / "a.png").touch()
    (inside / "link").symlink_to(other)
    (inside / "link.png").symlink_to(other / "a.png")
    (inside / "back.png").symlink_to(inside / "a.png")
    out = ["../in and out/a.png", str(other / "a.png"), "link/a.png", "link.png", "..", "x/../../a"]
    fine = ["a.png", "./a.png", "../in/a.png", str(inside / "a.png"), "back.png", "gone.png", "..a"]
    values = [entry(n, 1, image=name) for n, name in enumerate(out + fine)]
    return written(tmp_path, json.dumps(values)), inside, out, fine


def test_pictures_outside_of_the_folder_are_refused(escapes):
    file, folder, out, fine = escapes
    records = Records(file, folder)
    for n, name in enumerate(out):
        with pytest.raises(MalformedError, match="--set outside=true") as caught:
            records[n]
        told = f'train.json: record {n + 1} ("r{n}", line 1): {folder / name} lies outside of {folder}: '
        assert str(caught.value).startswith(told)
    assert [records[n].images for n in range(len(out), len(records))] == [
        (folder / f,) for f in fine
    ]
    assert len([*Records(file, folder, outside=True)]) == len(records)
    linked = folder.parent / "linked"
    linked.symlink_to(folder)
    assert Records(file, linked)[len(out)].images == (linked / "a.png",)
    found = check(records)
    assert [p.kind for p in found[: len(out)]] == ["outside of the images folder"] * len(out)
    assert all("lies outside" not in p.what for p in found[len(out) :])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"a": ' + "9" * 5000 + "}", "a number of too many digits"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "no UTF-8: invalid start byte at byte 8"),
        ("{oh}", "Expecting property name enclosed in double quotes at character 2"),
    ],
)
def test_a_broken_line_is_named_when_it_is_read(tmp_path, line, says):
    sound, line = (
        FORMS["lines"]([entry(0)]).encode(),
        line if isinstance(line, bytes) else line.encode(),
    )
    records = Records(written(tmp_path, sound + line + b"\n" + sound))
    assert len(records) == 3 and records[2].id == "r0"
    with pytest.raises(MalformedError) as caught:
        records[1]
    assert str(caught.value) == f"train.json: record 2 (line 2): broken JSON: {says}"


def test_what_is_no_file_is_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match=f"{path.name} is no file: want a JSON list"):
            Records(path)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone"):
        Records(tmp_path / "gone")


BROKEN = [
    ('[{"a": 1},\n{"a": 2\n,, 3},\n{}]', "record 2 (line 3): broken JSON: Expecting property name"),
    ('[{"a": 1},\n', "record 2 (line 2): broken JSON: want an object, found ''"),
    ('[{"a": 1}\n{"a": 2}]', "record 1 (line 2): broken JSON: want ',', found '{'"),
    ('[{"a": 1},\n]', "record 2 (line 2): broken JSON: want an object, found ']'"),
    ('[{"a": 1}, , 3]', "record 2 (line 1): broken JSON: want an object, found ','"),
    ('[{"a": 1}, {"b": oh}]', "record 2 (line 1): broken JSON: Expecting value at character 7"),
    ('[{"a": 1}]\n\n[]', "record 1 (line 3): broken JSON: something stands behind the list"),
    (
        '[{"a": 1},\n{"a": "2}]',
        "record 2 (line 2): broken JSON: Unterminated string starting at character 7",
    ),
    ('[{"a": 1}', "record 1 (line 1): broken JSON: ends without ']'"),
    (b'[{"a": 1},\n{"a": "\xff"}]', "train.json (line 1): broken JSON: no UTF-8 here or below"),
    (
        f'[{{"a": 1}}, {{"a": {"9" * 5000}}}]',
        "record 2 (line 1): broken JSON: a number of too many",
    ),
    (f'[{{"a": {"[" * 100_000}', "record 1 (line 1): broken JSON: nested too deeply"),
    ("[{}]".encode("utf-16"), "is UTF-16: want UTF-8"),
    ("[]", "holds no record"),
    ("\n \n", "holds no record"),
    ("", "holds no record"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_list_says_in_which_line(text, message, tmp_path):
    with pytest.raises(ValueError, match=r"train\.json") as caught:
        Records(written(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


NO_OBJECTS = {
    **{"null": "NoneType", "[1, [2]]": "list", '"x\u00e4"': "str"},
    **{"12345678901234567890": "int", "-1.5e+300": "float", "true": "bool"},
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("form", ["lines", "list", "airy list"])
def test_what_is_no_object_is_a_bad_record(tmp_path, monkeypatch, form, chunk):
    """In a list as in lines, wherever a chunk ends."""
    monkeypatch.setattr(index, "CHUNK", chunk)
    values = [entry(0), *map(json.loads, NO_OBJECTS), entry(1)]
    records = Records(written(tmp_path, FORMS[form](values)))
    assert len(records) == len(values) and records[-1].id == "r1"
    for n, (found, kind) in enumerate(zip(check(records), NO_OBJECTS.values(), strict=True), 1):
        assert (found.record, found.what) == (n, f"want an object, found {kind}")


LONG = "n" * 300
NO_FILES = (f"{LONG}.png", f"{LONG}/a.png", "a.png/b.png", "round", "round/a.png", "x/" * 3000)


@pytest.mark.parametrize("outside", [False, True])
def test_names_that_no_file_can_have_are_faults_of_their_records(tmp_path, outside):
    """Too long, through a file, through a circle of links, with a zero in them."""
    (tmp_path / "a.png").write_bytes(b"?")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    values = [entry(n, 1, image=name) for n, name in enumerate((*NO_FILES, "a\0.png"))]
    file = written(tmp_path, FORMS["lines"](values))
    found = check(Records(file, tmp_path, outside))
    assert [problem.record for problem in found] == list(range(len(values)))
    assert all("\n" not in str(problem) for problem in found)
    assert found[0].what.endswith("cannot be read: File name too long")
    assert found[2].what == f"no such image: {tmp_path / 'a.png/b.png'}"
    assert found[-1].what.endswith("can be no file's path")


def test_images_that_are_none_are_one_fault(tmp_path):
    values = [talk(image=bad) for bad in (3, ["a", ""], "a\0", {"a": 1})]
    values += [talk(human("<image>"), TOLD, video="a.mp4")]
    found = check(Records(written(tmp_path, FORMS["list"](values))))
    assert [p.kind for p in found] == ["image paths"] * 4 + ["a video"]


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
