"""Several processes on one folder: each question once, the same answers, and nobody is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from foveate.cli.work import ranks
from foveate.cli.wrong import Wrong
from foveate.keeping.shared import Ranks, shared

EVAL = (
    "--method",
    "fastv",
    "--keep",
    "36",
    "--limit",
    "22",
    "--batch-size",
    "4",
    "--device",
    "cpu",
)


def test_every_process_begins_with_its_own():
    assert Ranks(1, 3).order("abcdefg") == ["b", "e", "a", "c", "d", "f", "g"]
    assert Ranks().order("abc") == ["a", "b", "c"]


def test_what_is_done_meanwhile_is_not_done_again(tmp_path):
    done, made = {"a"}, []
    for item in shared("abcd", done.__contains__, lambda one: tmp_path / one):
        made.append(item)
        done |= {item, "c"}  # somebody else's
    assert made == ["b", "d"] and not list(tmp_path.iterdir())


def started(out, rank=0, of=1, *line: str) -> subprocess.Popen:
    """One process of several, as torchrun starts them."""
    line = [sys.executable, "-m", "foveate", "eval", *EVAL, "--out", str(out), "--json", *line]
    own = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(of), "LOCAL_RANK": str(rank)}
    return subprocess.Popen(
        line, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """What one process answers."""
    return json.loads(ended(started(tmp_path_factory.mktemp("alone")))[0])


def same(found: dict, alone: dict) -> None:
    apart = ("seconds", "circumstances", "prefill")
    assert {k: v for k, v in found.items() if k not in apart} == {
        k: v for k, v in alone.items() if k not in apart
    }


def test_two_ranks_give_what_one_process_gives_and_the_first_speaks(tmp_path, alone):
    both = [started(tmp_path, rank, 2) for rank in (0, 1)]
    (out, _), (silent, _) = map(ended, both)
    assert silent == ""
    same(json.loads(out), alone)
    assert [path.suffix for path in (tmp_path / "runs").iterdir()] == [".json"]


def test_a_killed_rank_is_not_needed_and_is_named(tmp_path, alone):
    """The second is killed as soon as it has answered one batch; the first comes later."""
    second = started(tmp_path, 1, 3)
    while not list(tmp_path.glob("runs/*.parts/*.json")):
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    left = len(list(tmp_path.glob("runs/*.parts/*.json")))
    out, err = ended(started(tmp_path, 0, 3))
    same(json.loads(out), alone)
    assert 0 < left < 6
    assert "rank 2 of 3 answered nothing" in err


def test_several_need_a_folder(tmp_path):
    line = [sys.executable, "-m", "foveate", "eval", *EVAL]
    own = {**os.environ, "RANK": "0", "WORLD_SIZE": "2"}
    found = subprocess.run(line, env=own, capture_output=True, text=True)
    assert found.returncode == 2 and "want --out FOLDER" in found.stderr


def test_a_rank_that_there_cannot_be_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Wrong, match="RANK=5 with WORLD_SIZE=2: want 0 to 1"):
        ranks()
