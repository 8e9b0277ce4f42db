"""Killed with SIGKILL at any moment and resumed, a run is the run that was never stopped, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
import warnings
from pathlib import Path

import pytest
import small
import torch
from small import known, same
from transformers.utils.logging import disable_progress_bar

from foveate.train import checkpoints, run

STAGED = {**small.STAGED, "steps": 8}
RANDOM = {**small.RANDOM, "steps": 4}
LEARNED = {**small.LEARNED, "steps": 4}
# Scales and shares are drawn, the router learns from them, and its balance is in the loss.
FOCUSED = {
    "method": "focusllava",
    "arguments": {"region": 2, "scales": [1, 2], "hidden": 8, "sampled": [0.3, 1.0]},
    "split": True,
    "steps": 4,
}
LORA = {**LEARNED, **small.ADAPTERS}


def die_at(last: int):
    """Kills its own process when that step is done, before anything is saved of it."""

    def advance(step: int, steps: int, now: str) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return advance


def die_once(path: Path):
    """Kills its own process as soon as a file is there."""

    def watch() -> None:
        while not path.exists():
            time.sleep(0.0002)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def killed(recipe, out: Path, last: int = -1, file: str | None = None, resume: bool = False):
    """Train in a process that is killed when step `last` is done, or when a file of the run is there."""

    def train() -> None:
        disable_progress_bar()  # killed inside one, it would keep tqdm's lock from this process too
        if file is not None:
            die_once(out / file)
        run(recipe, out, resume=resume, advance=die_at(last))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # one thread trains, the others sleep
        process = multiprocessing.get_context("fork").Process(target=train)
        process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "training.json").exists()


@pytest.mark.parametrize("last", [1, 3, pytest.param(5, marks=pytest.mark.slow), 7])
def test_in_any_stage(card, unbroken, tmp_path, last):
    """Two steps to a stage; step 1 is before the first checkpoint."""
    killed(card(**STAGED), tmp_path, last)
    begun = checkpoints.last_whole(tmp_path)
    assert begun == (tmp_path / f"checkpoint-{last - 1}" if last > 1 else None)
    same(tmp_path, run(card(**STAGED), tmp_path, resume=True), *unbroken(**STAGED))


@pytest.mark.parametrize(
    "changes",
    [RANDOM, LEARNED, FOCUSED, LORA],
    ids=["random", "depthwise", "focusllava", "adapters"],
)
def test_with_any_method(card, unbroken, tmp_path, changes):
    killed(card(**changes), tmp_path, last=3)
    same(tmp_path, run(card(**changes), tmp_path, resume=True), *unbroken(**changes))


@pytest.mark.slow
def test_again_and_again(card, data, unbroken, tmp_path):
    """With evaluations in between, over the end of an epoch."""
    changes = {**STAGED, "validation": str(data), "evaluate_every": 3, "order": "grouped"}
    killed(card(**changes), tmp_path, last=3)
    killed(card(**changes), tmp_path, last=6, resume=True)
    killed(card(**changes), tmp_path, last=7, resume=True)
    same(tmp_path, run(card(**changes), tmp_path, resume=True), *unbroken(**changes))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_while_a_checkpoint_is_written(card, unbroken, tmp_path, file):
    killed(card(**LEARNED), tmp_path, file=f"checkpoint-4/{file}")
    assert (tmp_path / "checkpoint-4").exists()
    assert checkpoints.last_whole(tmp_path) == tmp_path / "checkpoint-2"
    with pytest.warns(UserWarning, match="checkpoint-4 is removed, it was not written to its end"):
        done = run(card(**LEARNED), tmp_path, resume=True)
    same(tmp_path, done, *unbroken(**LEARNED))


@pytest.mark.parametrize("rest", ['{"global_step": 4, "log_hist', '{"global_step": 4}', None])
def test_a_half_written_state(card, unbroken, tmp_path, rest):
    """Cut off, empty, missing or no such document, of an earlier foveate: the checkpoint before counts."""
    out, _ = unbroken(**LEARNED)
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    (tmp_path / "training.json").unlink()
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    state.unlink() if rest is None else state.write_text(rest)
    (tmp_path / "checkpoint-4" / "manifest.json").unlink()
    small.unmarked(tmp_path)
    assert checkpoints.last_whole(tmp_path) == tmp_path / "checkpoint-2"
    with pytest.warns(UserWarning, match=r"trainer_state\.json is missing, or not as it was"):
        done = run(card(**LEARNED), tmp_path, resume=True)
    same(tmp_path, done, *unbroken(**LEARNED))


def test_a_finished_run_is_done(card, unbroken):
    out, document = unbroken(**LEARNED)
    before = (out / "model.safetensors").stat().st_mtime_ns
    start = time.perf_counter()
    assert run(card(**LEARNED), out, resume=True) == json.loads(json.dumps(document))
    assert time.perf_counter() - start < 0.2
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_the_folder_of_a_killed_run_is_not_written_to(card, tmp_path):
    killed(card(**LEARNED), tmp_path, last=3)
    with pytest.raises(ValueError, match="holds a run: resume it"):
        run(card(**LEARNED), tmp_path)


def test_another_recipe_says_what_differs(card, unbroken):
    out, _ = unbroken(**LEARNED)
    other = {**LEARNED, "steps": 9, "arguments": {"keep": 0.5, "layer": 1}}
    with pytest.raises(ValueError) as caught:
        run(card(**other), out, resume=True)
    text = str(caught.value)
    assert "steps: 4 then, 9 now" in text
    assert "arguments: {'keep': 0.25, 'layer': 1} then, {'keep': 0.5, 'layer': 1} now" in text
    assert "trains" not in text


def test_how_a_batch_is_computed_may_change(card, unbroken, tmp_path):
    """The same losses, but for rounding, with another micro-batch behind the checkpoint."""
    killed(card(**LEARNED), tmp_path, last=3)
    done = run(card(**LEARNED, micro_batch=4), tmp_path, resume=True)
    assert small.losses(done) == pytest.approx(small.losses(unbroken(**LEARNED)[1]), abs=1e-5)


@pytest.mark.slow
def test_on_the_command_line(card, unbroken, tmp_path):
    """Killed from outside at no chosen moment, resumed, and a folder in use is refused in one line."""
    recipe = card(**STAGED)
    line = ("train", *small.words(recipe), "--out", str(tmp_path))
    process = subprocess.Popen(
        small.command(*line), env=small.quiet(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not (tmp_path / "checkpoint-2" / "trainer_state.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not (tmp_path / "training.json").exists()

    refused = small.foveate(*line)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1 and "holds a run" in refused.stderr
    done = small.foveate(*line, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 8
    document = json.loads((tmp_path / "training.json").read_text())
    same(tmp_path, document, *unbroken(**STAGED))


@pytest.mark.slow
def test_two_ranks_in_the_second_epoch(card, tmp_path):
    """The order of an epoch reaches every rank; what one rank's file lacks is seen and said once."""
    recipe = card(micro_batch=4, steps=7, save_every=6)  # four steps are an epoch
    line = ["train", *small.words(recipe), "--out", tmp_path]
    done = small.foveate(*line, ranks=2)
    assert done.returncode == 0, done.stderr
    whole, document = small.weights(tmp_path), json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").unlink()
    state = tmp_path / "checkpoint-7" / "rng_state_1.pth"
    state.write_bytes(state.read_bytes()[:-1])
    again = small.foveate(*line, "--resume", ranks=2)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("checkpoint-7 is removed, rng_state_1.pth has") == 1
    assert "going on from checkpoint-6" in again.stderr
    assert known(json.loads((tmp_path / "training.json").read_text())) == known(document)
    theirs = small.weights(tmp_path)
    assert all(torch.equal(whole[n], theirs[n]) for n in whole)
