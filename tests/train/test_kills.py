"""Killed at drawn moments and begun again, every command ends as if nothing had stopped it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import small

# SIGKILL most of all: nothing can be tidied up after it.
SIGNALS = [signal.SIGKILL] * 6 + [signal.SIGTERM] * 2 + [signal.SIGINT] * 2
TIMED = ("seconds", "prefill", "circumstances", "seal")
SHORT = ("--limit", "6", "--batch-size", "1", "--max-new-tokens", "2", "--no-timing")


def finished(line: list[str], log: Path) -> float:
    """Run a command to its end; the seconds that took."""
    start, process = time.perf_counter(), small.begun(line, log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return time.perf_counter() - start


class Killed(NamedTuple):
    """What became of kills: how many stopped a command, and how many of those while it held its folder."""

    stopped: int
    at_work: int
    ends: int


def kills(line: Callable, same: Callable, folder: Path, lasts: float, wanted: int) -> Killed:
    """Kill a command until so many kills have hit it; look at each end it comes to, and begin anew.

    line(out) is the command, same(out) looks at what it left, lasts is how long it takes undisturbed.
    """
    draw, stopped, at_work, ends, log = random.Random(wanted), 0, 0, 0, folder / "log"
    while stopped < wanted or ends == 0:
        out = folder / str(ends)
        process = small.begun(line(out), log)
        if stopped < wanted:
            process.join(draw.uniform(0.02, lasts))
            held = any(out.rglob("*.lock"))
            if process.exitcode is None:
                os.kill(process.pid, draw.choice(SIGNALS))
        process.join()
        if process.exitcode == 0:
            same(out)
            ends += 1
        else:
            assert stopped < wanted, log.read_text()
            stopped, at_work = stopped + 1, at_work + held
    assert "Traceback" not in log.read_text() and "foveate: unexpected" not in log.read_text()
    return Killed(stopped, at_work, ends)


TRAINED = {"steps": 3, "save_every": 1, "keep_checkpoints": 1, "micro_batch": 4}
WHOLE = {**small.LEARNED, **TRAINED}
LORA = {**WHOLE, **small.ADAPTERS}
RECIPES = {"train": WHOLE, "train with adapters": LORA}
COMMANDS = {
    "eval": ("eval", "--method", "fastv", "--keep", "0.5"),
    "compare": ("compare", "--methods", "fastv", "--keeps", "0.5", "--scenes", "1"),
}


def training(card, changes):
    """The command, and what it left: losses and weights."""
    line = ["train", *small.words(card(**changes)), "--resume", "--device", "cpu", "--out"]

    def left(out: Path) -> tuple:
        assert not list(out.glob("*.tmp*"))
        assert [p.name for p in out.glob("checkpoint-*")] == [f"checkpoint-{changes['steps']}"]
        weights = {n: w.numpy().tobytes() for n, w in small.weights(out).items()}
        return small.known(json.loads((out / "training.json").read_text())), weights

    return lambda out: [*line, str(out)], left


def asking(place, words):
    """The command, and what it left: every document, but for what took how long."""
    line = [*words, *SHORT, "--model", str(place), "--device", "cpu", "--out"]

    def left(out: Path) -> dict:
        assert not list(out.rglob("*.tmp")) and not list(out.rglob("*.parts"))
        return {p.name: untimed(json.loads(p.read_text())) for p in sorted(out.rglob("*.json"))}

    return lambda out: [*line, str(out)], left


def untimed(told):
    """A document without its times."""
    if isinstance(told, dict):
        return {k: untimed(v) for k, v in told.items() if k not in TIMED}
    return [untimed(v) for v in told] if isinstance(told, list) else told


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [1, pytest.param(25, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.full) for kind in RECIPES), *COMMANDS]
)  # of training, test_resume has one
def test_killed_again_and_again(card, model, tmp_path, kind, wanted, capsys):
    if kind in RECIPES:
        line, left = training(card, RECIPES[kind])
    else:
        line, left = asking(model, COMMANDS[kind])
    lasts = finished(line(tmp_path / "whole"), tmp_path / "log")
    whole = left(tmp_path / "whole")
    assert whole

    def same(out: Path) -> None:
        assert left(out) == whole

    start = time.perf_counter()
    found = kills(line, same, tmp_path, lasts, wanted)
    assert found.stopped == wanted and found.at_work >= (wanted > 2) * wanted // 2
    with capsys.disabled() if wanted > 2 else contextlib.nullcontext():
        print(f"\n{kind}: {found}, {time.perf_counter() - start:.0f} s, alone {lasts:.1f} s")
