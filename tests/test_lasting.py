"""Many calls and many training steps: nothing is left behind, and the process grows no larger."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from families import FAMILIES, MIXED, ONE
from probes import Ragged, asked, zipped

import foveate
from foveate import Chain, FastV, Pool

CALLS, STEPS = 2000, 300
ATTACHED = {
    "three sites": lambda family: Chain(zipped(family, 6), FastV(0.5, layer=2), Pool(2, layer=3)),
    "ragged": lambda family: Ragged(),
    "asked": asked,
}


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def answers(model, family):
    """One call after the other, each traced, under an instruction, and asked for its hidden states."""
    inputs = family.inputs(MIXED)
    while True:
        with foveate.trace(model), foveate.instruction(inputs["attention_mask"].bool()):
            model.generate(**inputs, max_new_tokens=2)
        with torch.no_grad():
            model(**inputs, output_hidden_states=True)
        yield


def lessons(model, family):
    """One training step after the other."""
    inputs = family.inputs((ONE, ONE))
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == family.image_id, -100)
    inputs["labels"][:, : inputs["labels"].shape[1] // 2] = -100
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4)
    for step in range(STEPS + 1):
        foveate.set_progress(model, step, STEPS)
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def attached(name, attachment):
    family = FAMILIES[name]
    model = family.model()
    bare = hooks(model)
    next(
        answers(foveate.compress(model, foveate.Identity()), family)
    )  # transformers' own lazy hooks
    foveate.restore(model)
    lazy = hooks(model) - bare
    return family, foveate.compress(model, ATTACHED[attachment](family)), bare + lazy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "doing", "attachment"),
    [
        ("llava", answers, "three sites"),
        ("qwen3_vl", answers, "asked"),
        ("llava", lessons, "ragged"),
    ],
)
def test_calls_leave_no_tensor_and_no_hook_behind(name, doing, attachment):
    family, model, bare = attached(name, attachment)
    work = doing(model, family)
    next(work), next(work)  # what is made once is made by now
    before = hooks(model), tensors()
    for _ in range(4):
        next(work)
    assert (hooks(model), tensors()) == before
    foveate.restore(model)
    assert hooks(model) == bare


def grown(doing: str, times: int) -> dict[str, float]:
    """The process's resident memory after a tenth of the work and at its end, in MiB."""
    family, model, _ = attached("llava", "three sites")
    work, process = {"answers": answers, "lessons": lessons}[doing](model, family), psutil.Process()
    for done in range(1, times + 1):
        next(work)
        if done == times // 10:
            early = process.memory_info().rss
    return {"early": early / 2**20, "late": process.memory_info().rss / 2**20}


@pytest.mark.full
@pytest.mark.parametrize(("doing", "times"), [("answers", CALLS), ("lessons", STEPS)])
def test_the_process_grows_no_larger(doing, times):
    """In a process of its own: of memory that other tests gave back, nobody knows how much is kept."""
    call = f"import json, test_lasting; print(json.dumps(test_lasting.grown({doing!r}, {times})))"
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", call], cwd=here, capture_output=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["late"] <= 1.02 * found["early"], found
