"""Command lines that are wrong: exit code 2 or 1, one line, nothing half done. See malformed_calls.py."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter

import malformed_calls as calls
import pytest

from foveate.cli import run

HANGS = 60  # seconds


class Hang(BaseException):
    """A call took too long; no `except Exception` may keep it."""


def hung(*_):
    raise Hang


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return folder, calls.make_files(folder)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "call"


def ended(words):
    """A call's exit code, or what it ended with instead."""
    previous = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANGS)
    try:
        return run(list(words))
    except Hang:
        return "hang"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        sys.stdout.flush()
        sys.stderr.flush()


def tried(call, folder, place, capfd):
    """How a call ends in a folder of its own: its exit code, and what is wrong with it."""
    before = calls.fresh_copy(folder, place)
    os.chdir(place)
    capfd.readouterr()
    code = ended(call.words)
    out, err = capfd.readouterr()
    found = [*calls.faults(call, code, out, err), *calls.halves(place, before)]
    os.chdir(folder)
    shutil.rmtree(place)
    return code, [f"{call}\n    {code}: {fault}\n    {err[-500:]!r}" for fault in found]


def all_tried(seed, n, files, place, capfd):
    """How many calls ended how, and all faults; each is shown as it is found, and what took long."""
    bad, codes = [], Counter()
    for call in calls.draws(seed, n, files[1]):
        started = time.process_time()
        code, found = tried(call, files[0], place, capfd)
        codes[code] += 1
        bad += found
        if (took := time.process_time() - started) > 5 or found:
            with capfd.disabled():
                print(*ascii_only(found or [f"{took:.0f} s: {call}"]), sep="\n")
    return codes, bad


def ascii_only(texts):
    """Texts that any terminal shows."""
    return [text.encode("ascii", "backslashreplace").decode() for text in texts]


def test_a_hundred_and_fifty_wrong_calls(files, place, capfd):
    codes, bad = all_tried(1, 150, files, place, capfd)
    assert not bad, f"{len(bad)} faults, {codes}:\n" + "\n".join(bad)
    assert codes[2] > 100


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 110))
def test_two_thousand_wrong_calls(files, place, capfd, seed):
    codes, bad = all_tried(seed, 200, files, place, capfd)
    with capfd.disabled():
        print(codes)
    assert not bad, f"{len(bad)} faults, {codes}:\n" + "\n".join(bad)
    assert codes[2] > 130


def test_every_command_and_every_option_is_drawn():
    """Also one that was added today: they are read from the command tree."""
    there = {(name, p.name) for name, one in calls.commands().items() for p in one.params}
    drawn = set()
    for call in calls.draws(0, 2 * len(there), ["good.png"]):
        drawn |= {(call.command, what.partition(" is ")[0]) for what in call.mistakes}
    flags = {(n, p.name) for n, c in calls.commands().items() for p in c.params if calls.is_flag(p)}
    assert there - drawn <= flags
    assert len({str(call) for call in calls.draws(0, 500, ["good.png"])}) > 450
    first, again = ([str(c) for c in calls.draws(7, 50, ["good.png"])] for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("code", "out", "err", "fault"),
    [
        (0, "", "", "no JSON"),
        (3, "", "foveate: no\n", "exit code 3"),
        ("hang", "", "", "exit code hang"),
        (1, "", "Traceback (most recent call last):\nfoveate: no\n", "a traceback"),
        (1, "", "foveate: unexpected ValueError: x\n", "unexpected"),
        (2, "", "", "0 lines"),
        (2, "", "foveate: a\nfoveate: b\n", "2 lines"),
        (2, "", "foveate: a\nand more\n", "1 lines"),
        (2, "{}", "foveate: a\n", "beside"),
        (2, "", f"foveate: {'x' * 5_000}\n", "3,000"),
        (2, "", "foveate: \x1b[31m\n", "cannot be seen"),
    ],
)
def test_a_fault_is_noticed(code, out, err, fault):
    call = calls.Call("methods", ["methods", "--json"], [])
    assert any(fault in found for found in calls.faults(call, code, out, err))
    assert calls.faults(call, 0, "[]\n", "a remark\n") == []
    assert calls.faults(call, 2, "", "foveate: a\n") == []


HALVES = {
    "a.json": '{"a": ',
    "b.jsonl": "{}\n{",
    "c.html": "<html>",
    "d.png": "x",
    "e.json.9.tmp": "{}",
}


@pytest.mark.parametrize(("name", "text"), HALVES.items())
def test_half_a_file_is_noticed(tmp_path, name, text):
    (tmp_path / "old.json").write_text("{")
    before = {*tmp_path.rglob("*")}
    (tmp_path / "new.json").write_text("{}")
    assert calls.halves(tmp_path, before) == []
    (tmp_path / name).write_text(text)
    assert len(calls.halves(tmp_path, before)) == 1
