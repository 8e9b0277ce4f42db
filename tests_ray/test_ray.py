"""A run on a local Ray cluster of two workers: killed workers and a killed driver change no answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = (
    "eval",
    "--method",
    "fastv",
    "--keep",
    "36",
    "--limit",
    "66",
    "--batch-size",
    "6",
    "--device",
    "cpu",
)
APART = ("seconds", "circumstances", "prefill")
WAIT = 300  # seconds


def started(out: Path, *line: str) -> subprocess.Popen:
    """The command, on its way."""
    words = [sys.executable, "-m", "foveate", *RUN, "--out", str(out), "--json", *line]
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen(
        words, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def document(process: subprocess.Popen) -> dict:
    """What it prints, but for circumstances."""
    out, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0
    return {name: value for name, value in json.loads(out).items() if name not in APART}


def workers() -> list[int]:
    """The processes that hold a model."""
    found = subprocess.run(["pgrep", "-f", "ray::.*Answering"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def batches(out: Path) -> dict[str, int]:
    """The batches that are there, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("runs/*.parts/*.json")}


def until(true, process: subprocess.Popen) -> None:
    """Wait for something to be true while a process works."""
    end = time.monotonic() + WAIT
    while not true():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """What one process answers."""
    return document(started(tmp_path_factory.mktemp("alone")))


def test_a_killed_worker_is_replaced(tmp_path, alone):
    driver = started(tmp_path, "--ray", "auto")
    until(lambda: batches(tmp_path) and workers(), driver)
    os.kill(workers()[0], signal.SIGKILL)
    assert document(driver) == alone


def test_a_killed_driver_loses_nothing_and_asks_nothing_twice(tmp_path, alone):
    driver = started(tmp_path, "--ray", "auto")
    until(lambda: len(batches(tmp_path)) > 1, driver)
    driver.kill()
    driver.communicate()
    before = batches(tmp_path)
    again = started(tmp_path, "--ray", "auto")
    until(lambda: len(batches(tmp_path)) > len(before), again)
    now = batches(tmp_path)
    assert {name: now[name] for name in before} == before
    assert document(again) == alone
