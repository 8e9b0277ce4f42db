"""What compressors add to the loss is told apart, however a batch is computed, and validation knows none."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext

import pytest
import small
import torch
import torch.distributed as dist
from probes import Ragged

from foveate.train import Lora, run
from foveate.train.curve import curve
from foveate.train.penalty import Apart
from foveate.train.trainer import VisualTrainer

SAMPLERS = {"keep": 0.5, "region": 2, "scales": [1, 2], "hidden": 8, "sampled": [0.3, 1.0]}
ONE_STEP = {"split": True, "steps": 1, "order": "grouped"}


def focused(balance: float, **changes) -> dict:
    """A recipe's changes: both samplers, and this weight of the balance between scales."""
    arguments = {**SAMPLERS, "balance": balance}
    return {**ONE_STEP, "method": "focusllava", "arguments": arguments, **changes}


def logged(document: dict) -> list[dict]:
    return [entry for entry in document["history"] if "loss" in entry]


def test_the_loss_is_told_in_its_terms(card, tmp_path):
    """The language model's own loss is that of a run without the penalty, whose draws are the same."""
    (without,) = logged(run(card(**focused(0.0)), tmp_path / "without"))
    (balanced,) = logged(run(card(**focused(0.5)), tmp_path / "balanced"))
    assert {"language_loss", "penalty"}.isdisjoint(without)
    assert balanced["language_loss"] == pytest.approx(without["loss"], abs=1e-6)
    assert balanced["loss"] == pytest.approx(balanced["language_loss"] + balanced["penalty"])
    # An undecided router of two scales: P is a half of each, so 2 Σ f P is 1 whatever is drawn.
    assert balanced["penalty"] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("changes", [{"micro_batch": 2}, {"checkpointing": True}, {"bf16": True}])
def test_however_a_batch_is_computed(card, tmp_path, changes):
    (whole,) = logged(run(card(**focused(0.5)), tmp_path / "whole"))
    (other,) = logged(run(card(**focused(0.5), **changes), tmp_path / "other"))
    near = {"rel": 5e-3} if "bf16" in changes else {"abs": 1e-5}
    for name in ("loss", "language_loss", "penalty"):
        assert other[name] == pytest.approx(whole[name], **near), name


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo is not built in")
def test_on_two_ranks(card, tmp_path):
    recipe = card(**focused(0.5), micro_batch=2)
    done = small.foveate("train", *small.words(recipe), "--out", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr
    (two,) = logged(json.loads((tmp_path / "two" / "training.json").read_text()))
    (one,) = logged(run(card(**focused(0.5)), tmp_path / "one"))
    for name in ("loss", "language_loss", "penalty"):
        assert two[name] == pytest.approx(one[name], abs=1e-5), name


def test_under_adapters_and_over_several_steps(card, tmp_path):
    """A log speaks of all steps since the last."""
    trains = {"lora": 1e-30, "compressor": 1e-30}
    changes = {"lora": Lora(rank=2, alpha=4), "trains": trains, "steps": 4}
    kind = {"order": "sequential", "micro_batch": 4}
    each = logged(run(card(method=Ragged(32), **changes, **kind), tmp_path / "each"))
    pairs = logged(run(card(method=Ragged(32), **changes, **kind, log_every=2), tmp_path / "pairs"))
    assert [len(each), len(pairs)] == [4, 2]
    for name in ("loss", "language_loss", "penalty"):
        means = [(a[name] + b[name]) / 2 for a, b in zip(each[::2], each[1::2], strict=True)]
        assert [entry[name] for entry in pairs] == pytest.approx(means, abs=1e-5), name
    assert min(entry["penalty"] for entry in each) > 0


def test_validation_knows_no_penalty(card, data, tmp_path):
    still = {"trains": {"language": 1e-30}, "validation": str(data), "evaluate_every": 1}
    found = [
        run(card(**focused(balance, **still)), tmp_path / str(balance)) for balance in (0.0, 0.5)
    ]
    without, balanced = (
        [entry["eval_loss"] for entry in document["history"] if "eval_loss" in entry]
        for document in found
    )
    assert len(without) == 1 and balanced == without


def test_a_person_sees_it(card, tmp_path):
    heard = []
    run(card(**focused(0.5)), tmp_path, advance=lambda step, steps, now: heard.append(now))
    assert heard[-1].startswith("loss ") and heard[-1].endswith(", 0.5000 of it penalty")


@pytest.fixture
def hooked(monkeypatch):
    """The model of every trainer made since, and how many hooks were on it before."""
    found, make = [], VisualTrainer.__init__

    def noted(self, *args, model, **kwargs):
        found.append((model, len(model._forward_hooks)))
        make(self, *args, model=model, **kwargs)

    monkeypatch.setattr(VisualTrainer, "__init__", noted)
    return found


@pytest.mark.parametrize("broken_off", [False, True])
def test_a_trained_model_keeps_no_hook_of_it(card, tmp_path, hooked, broken_off):
    def stop(step, steps, now):
        if broken_off and now.startswith("loss"):
            raise InterruptedError

    with pytest.raises(InterruptedError) if broken_off else nullcontext():
        run(card(**focused(0.5)), tmp_path, advance=stop)
    ((model, before),) = hooked
    assert len(model._forward_hooks) == before


@pytest.mark.parametrize(
    ("own", "added", "told"),
    [
        (2.0, 0.0, {}),
        (2.0, 0.5, {"language_loss": 8.0, "penalty": 2.0}),
        (math.nan, 0.0, {}),
        (math.nan, 0.5, {}),
        (math.inf, 0.5, {}),
    ],
)
def test_what_is_told_of_a_loss(own, added, told):
    model = Losing(torch.tensor(own))
    model.register_forward_hook(lambda module, args, output: (output[0] + added,))
    with Apart(model, gather=lambda sums: sums) as apart:
        model()
        assert apart.read(10.0, torch.device("cpu")) == told
        assert apart.read(10.0, torch.device("cpu")) == {}
    model()
    assert float(apart.own) == float(apart.whole) == 0.0


class Losing(torch.nn.Module):
    """A model in training whose loss is given."""

    def __init__(self, loss: torch.Tensor):
        super().__init__()
        self.loss = loss

    def forward(self) -> tuple[torch.Tensor]:
        return (self.loss,)


def test_it_is_drawn_apart(tmp_path):
    """Two panels are taller than one."""
    from PIL import Image

    plain = [{"step": n, "loss": 3.0 - n} for n in range(3)]
    both = [{**one, "language_loss": 2.9 - one["step"], "penalty": 0.1} for one in plain]
    heights = []
    for name, history in (("plain", plain), ("both", both)):
        with Image.open(curve(history, tmp_path / f"{name}.png", name)) as drawn:
            heights.append(drawn.height)
    assert heights[0] < heights[1]
