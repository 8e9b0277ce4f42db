"""What a run wrote is counted if it is what it claims to be; all else is made again, and said."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from mutations import put
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from foveate import cli, evaluate
from foveate.embedded import PATH
from foveate.evaluate import results
from foveate.evaluate import runs as room
from foveate.evaluate.results import Partial
from foveate.keeping.held import HeldError, held, sweep
from foveate.keeping.provenance import made, sealed, unsealed, write
from foveate.methods import Stride
from foveate.patchqa import PatchQA

JOB = evaluate.Job("tiny", "f", "patchqa", "e", 10, 0, "stride", 0.25, "Stride()", "original", 4, 2)


@pytest.fixture(scope="module")
def asked():
    """A model of random weights, its processor and ten questions, the cost of one of them counted."""
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(PATH)).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "WATCHED", 1)
        yield model, AutoProcessor.from_pretrained(PATH), PatchQA("test").examples(10)


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    """The run that nothing stopped: its document, and its batches before they went, by where they start."""
    folder = tmp_path_factory.mktemp("whole")
    document = evaluate.run(*asked, JOB, Stride(0.25), folder)
    (folder / f"{JOB.name}.json").unlink()
    return document, killed(asked, folder, after=10)


def killed(asked, folder, after, job=JOB):
    """Stop a run when so many questions are answered; the batches it left."""
    left = after

    def die(done):
        nonlocal left
        left -= done
        if left <= 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate.run(*asked, job, Stride(0.25), folder, advance=die)
    return {int(path.stem): path.read_bytes() for path in parts(folder, job).glob("*.json")}


def parts(folder, job=JOB):
    return folder / f"{job.name}.parts"


def changed(**values):
    """A batch that says other things, sealed again."""

    def change(batch: bytes) -> bytes:
        told = json.loads(batch)
        del told["seal"]
        told |= {name: value(told[name]) for name, value in values.items()}
        return json.dumps(sealed(told)).encode() + b"\n"

    return change


# What becomes of the first batch of a run, of four questions.
STRANGE = {
    "cut": lambda a: a[:-40],
    "a bit flipped": lambda a: a.replace(b'"right": false', b'"right": true'),
    "another place": changed(start=lambda start: 4),
    "another order": changed(answers=lambda answers: answers[::-1]),
    "fewer": changed(answers=lambda answers: answers[1:]),
    "another job": changed(job=lambda job: {**job, "seed": 1}),
    "no seal": lambda a: json.dumps(json.loads(a)["answers"]).encode() + b"\n",
    "a list": lambda a: b"[]\n",
    "no UTF-8": lambda a: b"\xff\xfe\x00\n",
    "empty": lambda a: b"",
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_batch_counts_if_it_is_what_it_claims(whole, tmp_path, name):
    (document, batches), keys = whole, list(whole[0]["answers"])
    for start, batch in batches.items():
        batch = STRANGE[name](batch) if start == 0 else batch
        write(parts(tmp_path) / f"{start:09d}.json", batch)
    read = Partial(tmp_path, JOB, keys)
    quiet = name in (
        "another order",
        "fewer",
    )  # as this run might have written it, of other questions
    with nullcontext() if quiet else pytest.warns(UserWarning, match="not what was written there"):
        assert [start for start in read.starts if read.has(start)] == [4, 8]
    assert [answer["key"] for answer in read.answers] == keys[4:]
    left = {answer["key"]: answer["prediction"] for answer in read.answers}
    assert left == {key: document["answers"][key]["prediction"] for key in keys[4:]}
    read.add(0, json.loads(batches[0])["answers"])
    assert read.path(0).read_bytes() == batches[0]


def test_a_hole_is_asked_again_and_nothing_else(asked, whole, tmp_path, monkeypatch):
    document, batches = whole
    for start in (0, 8):
        write(parts(tmp_path) / f"{start:09d}.json", batches[start])
    counted, real = [], room.replies
    monkeypatch.setattr(
        room, "replies", lambda m, p, asks, n: counted.append(len(asks)) or real(m, p, asks, n)
    )
    resumed = evaluate.run(*asked, JOB, Stride(0.25), tmp_path)
    assert counted == [4]
    assert list(resumed["answers"].items()) == list(document["answers"].items())
    assert all(resumed[k] == document[k] for k in ("n", "accuracy", "kinds", "tokens", "cost"))
    assert [p.name for p in tmp_path.iterdir()] == [f"{JOB.name}.json"]


# What may stand where a result was: text, bytes, or what becomes of the document.
NO_RESULT = {
    "no document": "{}",
    "cut": '{"format": 3, "job"',
    "no UTF-8": b"\xff\xfe{}",
    "an older format, changed": lambda d: {**d, "format": 1},
    "another format": lambda d: sealed({**d, "format": 99}),
    "another job": lambda d: sealed({**d, "job": {**d["job"], "seed": 5}}),
    "an answer missing": lambda d: {**d, "answers": dict(list(d["answers"].items())[1:])},
    "never sealed": lambda d: {k: v for k, v in d.items() if k != "seal"},
    "a folder": "folder",
}


@pytest.mark.parametrize("name", NO_RESULT)
def test_what_is_no_result_is_made_again(whole, tmp_path, name):
    document, strange = json.loads(json.dumps(whole[0])), NO_RESULT[name]
    if callable(strange):
        strange = json.dumps(strange(sealed(document)))
    put(tmp_path, f"{JOB.name}.json", strange)
    with pytest.warns(UserWarning, match=r"\.json is not what was written there: made again"):
        assert results.finished(tmp_path, JOB) is None
    results.finish(tmp_path, JOB, document)
    assert results.finished(tmp_path, JOB) == document


@pytest.mark.parametrize("seal", [dict, sealed])
def test_a_result_of_an_earlier_foveate_is_said_to_be_one(whole, tmp_path, seal):
    write(tmp_path / f"{JOB.name}.json", json.dumps(seal({**whole[0], "format": 1})))
    with pytest.warns(UserWarning, match=r"\.json is of an earlier foveate: made again"):
        assert results.finished(tmp_path, JOB) is None


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "a.json" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match="a folder with something in it stands where a file goes"):
        made(tmp_path / "a.json")
    assert (tmp_path / "a.json" / "b").is_dir()


def test_a_run_killed_between_its_result_and_its_parts_leaves_no_parts(whole, tmp_path):
    document, batches = whole
    results.finish(tmp_path, JOB, document)
    write(parts(tmp_path) / "000000000.json", batches[0])
    assert results.finished(tmp_path, JOB)["answers"] == document["answers"]
    assert not parts(tmp_path).exists()


def test_a_seal_tells_every_change():
    document = {"a": [1, 2.5, None], "b": {"c": "\udce4 ä"}}
    text = json.dumps(sealed(document))
    assert unsealed(text) == document
    for k in range(len(text)):
        for letter in '0"x':
            assert unsealed(text[:k] + letter + text[k + 1 :]) in (None, document)
        assert unsealed(text[:k]) is None
    for other in ("null", "[]", "3", "{}", "", b"\xff\xfe{}", "[" * 100_000, json.dumps(document)):
        assert unsealed(other) is None
    for changed in ({"a": float("nan")}, {"a": []}, {"more": 1}):
        assert unsealed(json.dumps(sealed(document) | changed)) is None


# Another process that holds a path, says so, and waits to be ended.
HOLDS = """
import sys
from pathlib import Path
from foveate.keeping.held import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def refused(path) -> str:
    """What another process is told that would hold a path."""
    line = [sys.executable, "-c", HOLDS, str(path)]
    return subprocess.run(line, capture_output=True, text=True, input="").stderr


@pytest.fixture
def holder():
    """Starts processes that hold a path."""
    started = []

    def start(path):
        line = [sys.executable, "-c", HOLDS, str(path)]
        one = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(one)
        assert one.stdout.readline() == "held\n"
        return one

    yield start
    for one in started:
        one.kill()
        one.wait()
        one.stdin.close()
        one.stdout.close()


@pytest.mark.parametrize("end", ["kill", "terminate", "close"])
def test_the_second_is_told_and_a_lock_dies_with_its_process(holder, tmp_path, end):
    path = tmp_path / "run"
    one = holder(path)
    with pytest.raises(HeldError) as told, held(path):
        pass
    assert f"{path} is being made by process {one.pid} on " in str(told.value)
    assert str(told.value).endswith(": wait for it to end, or write elsewhere")
    with held(tmp_path / "other"):  # others share the folder
        assert (tmp_path / "run.lock").exists()
    (tmp_path / f"run.json.{one.pid}.tmp").write_text("{")
    one.stdin.close() if end == "close" else getattr(one, end)()
    one.wait()
    with held(path):
        assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.iterdir())


def test_what_another_process_answers_is_waited_for_until_it_dies(holder, asked, whole, tmp_path):
    one, heard = holder(parts(tmp_path) / "000000004.json"), []

    def heed(done):
        heard.append(done)
        if sum(heard) == 6:  # all that is not held
            one.kill()

    found = evaluate.run(*asked, JOB, Stride(0.25), tmp_path, advance=heed)
    assert heard == [4, 2, 4, 0]
    assert found["answers"] == whole[0]["answers"]
    assert [p.name for p in tmp_path.iterdir()] == [f"{JOB.name}.json"]


def test_children_do_not_inherit_a_lock(tmp_path):
    """A killed run's workers may live a while longer."""
    path = tmp_path / "run"
    with held(path):
        pid = os.fork()
        if pid == 0:
            os.close(os.open(path.with_name("run.lock"), os.O_RDONLY))
            os._exit(0)
        os.waitpid(pid, 0)
        assert "is being made by process" in refused(path)
    with held(path):
        pass


def test_only_what_killed_processes_left_of_it_is_swept(holder, tmp_path):
    one = holder(tmp_path / "other")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    users = ["my.tmp", "b.json.tmp", "b.json.v2.tmp"]
    users += [f"b.json2.{gone.pid}.tmp", f"a.{gone.pid}.tmp"]
    alive = [f"b.json.{pid}.tmp" for pid in (one.pid, os.getpid(), 10**30)]
    ours = [f"b.json.{gone.pid}.tmp", f"b.json.partial.{gone.pid}.tmp"]
    for name in users + alive + ours:
        (tmp_path / name).write_text("")
    with held(tmp_path / "b.json"):
        assert {p.name for p in tmp_path.glob("*.tmp")} == {*users, *alive}
    sweep(tmp_path)
    assert {p.name for p in tmp_path.glob("*.tmp")} == {*users[:3], *alive}


def test_one_process_does_not_enter_twice(tmp_path):
    path = tmp_path / "b.json"
    with held(path):
        with (
            ThreadPoolExecutor(1) as other,
            pytest.raises(HeldError, match=r"b\.json is .* this process"),
        ):
            other.submit(held(path).__enter__).result()
        assert path.with_name("b.json.lock").exists()
        assert f"is being made by process {os.getpid()} on" in refused(path)
    with held(path):  # and then it may
        pass


@pytest.mark.parametrize("inside", ["", "compare"])
def test_where_no_lock_can_be_made_the_place_is_named(tmp_path, inside):
    path = tmp_path / "place"
    lock = path / "compare.lock" if inside else tmp_path / "place.lock"
    lock.mkdir(parents=True)
    with pytest.raises(OSError) as told, held(path, inside):
        pass
    assert told.value.filename == str(path)


HELD = {"compare": "compare", "train": "training", "bench": "b.json"}


@pytest.mark.parametrize("command", HELD)
def test_a_command_says_who_is_at_it(holder, tmp_path, capsys, command):
    path = tmp_path / HELD[command]
    one = holder(path)
    out = path if command == "bench" else tmp_path
    line = {
        "compare": ["compare", "--methods", "stride", "--limit", "1"],
        "train": ["train", "patchqa", "--set", "steps=1"],
        "bench": ["bench", "--methods", "stride", "--count-only"],
    }[command]
    assert cli.run([*line, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    made, used = f"{path} is being made by", f"{tmp_path} is being written to by"
    what = made if command == "bench" else used
    assert f"foveate: {what} process {one.pid} on " in said
