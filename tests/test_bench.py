"""What the benchmark counts and how it reckons; how fast anything is, no test asserts."""

import gc
import json
import subprocess
import sys

import pytest
import torch
from families import FAMILIES, ONE

import foveate
from foveate import FastV, Stride
from foveate.bench import (
    BARS,
    bench,
    interleaved,
    peak_bytes,
    prefill_ratio,
    ratio,
    reference,
    ticks,
    twin,
)
from foveate.bench.clock import Spread, Timing
from foveate.bench.limits import short_prefill
from foveate.provenance import dumps, record, write

LLAVA = FAMILIES["llava"]


def test_everything_runs_equally_often_and_from_every_place():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    timings = interleaved(calls, pairs=6, warmup=1)
    assert {name: len(t) for name, t in timings.items()} == dict.fromkeys("abc", 6)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(rounds) == 7 and all(sorted(r) == list("abc") for r in rounds)
    for place in range(3):
        assert sorted(r[place] for r in rounds[1:]) == list("aabbcc")
    assert gc.isenabled()


def test_ratios_are_taken_round_by_round():
    slow_then_fast = [Timing(2.0, 1.0), Timing(0.2, 0.1)]
    halves = [Timing(1.0, 0.5), Timing(0.1, 0.05)]
    found = ratio(slow_then_fast, halves)
    assert found.wall.median == found.cpu.median == pytest.approx(2.0) and found.pairs == 2
    with pytest.raises(ValueError):
        ratio(slow_then_fast, halves[:1])


def test_bounds_are_order_statistics():
    spread = Spread.of([float(i) for i in range(1, 31)])
    # P(Binomial(30, 1/2) <= 10) = 0.049: the 11th of 30 lies above the median in fewer than 5 % of runs.
    assert (spread.median, spread.low, spread.high) == (15.5, 11.0, 20.0)
    few = Spread.of([3.0, 1.0, 2.0])
    assert (few.low, few.median, few.high) == (1.0, 2.0, 3.0)
    assert Spread.of([1.0]).quartiles == (1.0, 1.0)


def test_a_twin_shares_weights_and_nothing_else():
    model = LLAVA.model()
    other = foveate.compress(twin(model), Stride(0.25))
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)
    assert not foveate.is_compressed(model) and foveate.is_compressed(other)


def test_the_short_prompt_is_what_stride_leaves_long():
    model, inputs = LLAVA.model(), LLAVA.inputs([ONE])
    with torch.no_grad():
        short = short_prefill(model, inputs, 0.25)()
        small = foveate.compress(twin(model), Stride(0.25))(**inputs, use_cache=True)
    lengths = [out.past_key_values.get_seq_length() for out in (short, small)]
    assert lengths == [9 + 4, 9 + 4]


def test_prefill_ratio_leaves_the_model_bare():
    model, inputs = LLAVA.model(), LLAVA.inputs([ONE])
    found = prefill_ratio(model, inputs, FastV(0.5), pairs=3)
    assert found.pairs == 3 and found.wall.median > 0 and found.cpu.low <= found.cpu.high
    assert not foveate.is_compressed(model)
    foveate.compress(model, Stride(0.5))
    with pytest.raises(ValueError, match="restore"):
        prefill_ratio(model, inputs, FastV(0.5), pairs=1)


def test_the_peak_counts_what_is_held_at_once():
    def call():
        for _ in range(3):
            torch.ones(250_000)  # gone before the next
        held = torch.ones(500_000)
        return held + 1

    assert 4_000_000 <= peak_bytes(call) < 4_010_000


@pytest.mark.slow
def test_a_whole_bench():
    model, inputs, seen = LLAVA.model(), LLAVA.inputs([ONE]), []
    found = bench(
        model,
        inputs,
        methods=["identity", "stride", "fastv"],
        pairs=2,
        rounds=2,
        advance=lambda by, what: seen.append(by),
    )
    json.dumps(found, allow_nan=False)
    assert sum(seen) == ticks(pairs=2, rounds=2)
    assert [row["method"] for row in found["rows"]] == ["identity", "stride", "fastv"]
    assert [row["tokens"] for row in found["rows"]] == [16, 4, 4]
    bare, stride, fastv = found["rows"]
    assert bare["macs"]["scorer"] == stride["macs"]["scorer"] == 0 < fastv["macs"]["scorer"]
    assert stride["kv_bytes"] < fastv["kv_bytes"] < bare["kv_bytes"]
    assert stride["macs"]["vision"] == bare["macs"]["vision"]
    assert all(row["peak_bytes"] > 0 for row in found["rows"])
    assert found["prompt"] == {"visual": 16, "text": 9}
    assert found["limits"].keys() == BARS.keys()
    assert all(limit["wall"]["median"] > 0 for limit in found["limits"].values())
    assert not foveate.is_compressed(model)


def test_a_budget_a_method_cannot_express_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"keep=0\.3"):
        bench(LLAVA.model(), LLAVA.inputs([ONE]), methods=["pool"], keep=0.3)


def test_the_record_says_how_to_repeat_it():
    found = record(seed=3)
    assert found["seed"] == 3 and found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == torch.__version__
    assert {"command", "commit", "python", "device"} <= found.keys()


def test_a_result_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.json"
    assert write(path, dumps({"a": 1})) == path and json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(ValueError):
        dumps({"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.slow
def test_the_reference_has_the_size_it_says():
    model, inputs = reference()
    text = model.config.text_config
    assert (text.num_hidden_layers, text.hidden_size) == (12, 768)
    visual = (inputs["input_ids"] == model.config.image_token_id).sum()
    assert (int(visual), inputs["input_ids"].shape[1]) == (576, 640)
    with torch.no_grad():
        assert model(**inputs, logits_to_keep=1).logits.shape == (1, 1, text.vocab_size)


def test_a_missing_git_is_no_error(tmp_path):
    code = "from foveate.provenance import record; assert record()['commit'] is None"
    subprocess.run([sys.executable, "-c", code], env={"PATH": str(tmp_path)}, check=True)
