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

HANGS = 60


class Hang(BaseException):
    """A call took too long; no `except Exception` may keep it."""


def hung(*_):
    raise Hang


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return folder, calls.make_files(folder)


def tried(call, files, place, capfd):
    """How one call ended: its faults, its exit code, and what stood on stderr."""
    before = calls.fresh_copy(files, place)
    os.chdir(place)
    capfd.readouterr()
    previous = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANGS)
    try:
        code = run(list(call.words))
    except Hang:
        code = "hang"
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = capfd.readouterr()
    found = calls.faults(call, code, out, err)
    found += calls.halves(place, before)
    os.chdir(files)
    shutil.rmtree(place)
    return found, code, err


def all_tried(seed, n, files, place, capfd):
    folder, names = files
    bad, codes, slow = [], Counter(), []
    for call in calls.draws(seed, n, names):
        started = time.monotonic()
        found, code, err = tried(call, folder, place, capfd)
        took = time.monotonic() - started
        codes[code] += 1
        if took > 5:
            slow.append(f"{took:.1f} s: {call}")
        if found:
            bad.append(f"{call}\n    {code} {', '.join(found)}\n    {err[:400]!r}")
            if os.environ.get("SHOW"):
                with open(os.environ["SHOW"], "a") as log:
                    log.write(bad[-1].encode("utf-8", "backslashreplace").decode() + "\n")
    if os.environ.get("SHOW"):
        with open(os.environ["SHOW"], "a") as log:
            log.write(
                f"{codes}\n" + "\n".join(slow).encode("utf-8", "backslashreplace").decode() + "\n"
            )
    return bad, codes


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "call"


def test_a_hundred_and_fifty_wrong_calls(files, place, capfd):
    bad, codes = all_tried(1, int(os.environ.get("N", 150)), files, place, capfd)
    assert not bad, f"{len(bad)} faults, {codes}:\n" + "\n".join(bad[:20])
    assert codes[2] > 90


@pytest.mark.full
def test_two_thousand_wrong_calls(files, place, capfd):
    bad, codes = all_tried(2, 2_000, files, place, capfd)
    assert not bad, f"{len(bad)} faults, {codes}:\n" + "\n".join(bad[:50])
