"""What the benchmark counts and how it reckons; how fast anything is, no test asserts."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES, ONE

import foveate
from foveate import FastV, Identity, Pool, Stages, Stride
from foveate.bench import (
    BARE,
    CONFIGS,
    Cell,
    Effort,
    Named,
    Paper,
    Subject,
    bench,
    counts,
    fits,
    interleaved,
    peak_bytes,
    plan,
    prefill_ratio,
    ratio,
    tables,
    ticks,
    training_cost,
    twin,
)
from foveate.bench.clock import Spread, Timing
from foveate.bench.configs import SMALL, TEXT, build
from foveate.bench.count import prefill
from foveate.bench.journal import KIND
from foveate.bench.limits import ideal, short_prefill
from foveate.bench.steps import training_steps
from foveate.bench.table import groups
from foveate.cli import arguments, run
from foveate.core.compressor import Compressor
from foveate.core.spec import Spec, crossed
from foveate.hosts import cost, traits
from foveate.keeping.provenance import dumps, record, sealed, write
from foveate.methods import METHODS

LLAVA = FAMILIES["llava"]
ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_has_a_short_prompt(name):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs([ONE])
    visual = int((inputs["input_ids"] == traits.placeholder_id(model.model)).sum())
    with torch.no_grad():
        short, whole = short_prefill(model, inputs, 5)(), prefill(model, inputs)()
    cut = [o.past_key_values.layers[-1].keys.shape[-2] for o in (whole, short)]
    assert cut[0] - cut[1] == visual - 5


def test_the_ideal_weighs_prompts_by_the_layers_that_see_them():
    prefills = {16: [Timing(4.0, 8.0), Timing(2.0, 4.0)], 4: [Timing(1.0, 2.0), Timing(1.0, 1.0)]}
    found = ideal(prefills, [16, 16, 4, 4, 4, 4, 4, 4])
    assert found == [Timing(1.75, 3.5), Timing(1.25, 1.75)]
    assert ideal(prefills, [4, 4]) == prefills[4]


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


def subject(model=None):
    model = model or LLAVA.model()
    return Subject("tiny", model, lambda batch: LLAVA.inputs([ONE] * batch))


QUICK = Effort(pairs=2, rounds=2, new_tokens=(1, 3))


@pytest.mark.slow
def test_a_whole_bench():
    measured, seen = subject(), []
    specs = [Spec(slug, METHODS[slug]) for slug in (BARE, "stride", "fastv", "pool")]
    cells, skipped = plan(specs, [4], [2])
    assert [s["method"] for s in skipped] == ["pool"]
    found = bench(measured, cells, QUICK, advance=lambda by, _: seen.append(by), skipped=skipped)
    json.dumps(found, allow_nan=False)
    assert sum(seen) == ticks(cells, QUICK)
    assert found["prompt"] == {"visual": 16, "text": 9} and found["left_out"] == skipped
    rows = {(r["method"], r["keep"], r["batch"]): r for r in found["cells"] if not r["idle"]}
    assert len(rows) == 3 and sum(r["idle"] for r in found["cells"]) == 2
    bare, stride, fastv = rows[BARE, 1.0, 2], rows["stride", 4, 2], rows["fastv", 4, 2]
    assert fastv["tokens_per_layer"] == [16, 16, 4, 4, 4] and fastv["equivalent_tokens"] == 8.8
    assert bare["macs"]["scorer"] == stride["macs"]["scorer"] == 0 < fastv["macs"]["scorer"]
    assert stride["kv_bytes"] < fastv["kv_bytes"] < bare["kv_bytes"]
    assert stride["macs"]["vision"] == bare["macs"]["vision"]
    for key, row in rows.items():
        assert row["peak_bytes"] > 0 and row["prefill_s"]["median"] > 0
        assert set(row["end_to_end_s"]) == {"1", "3"}
        assert row["end_to_end_s"]["1"] == row["ttft_s"] and row["decode_s_per_token"]["median"] > 0
        spans = {"to_bare", "to_limit"}
        ratios = {f"{what}_{span}" for what in ("ttft", "decode", "end_to_end") for span in spans}
        ratios |= {"peak_to_bare", "peak_to_limit", "realised", *spans}
        assert row["load"] >= 0 and row["visual"] == 16
        assert len(ratios & row.keys()) == (0 if key[0] == BARE else len(ratios))
    assert stride["peak_to_bare"] == stride["peak_bytes"] / bare["peak_bytes"]
    wall, saved = stride["to_bare"]["wall"], 1 - stride["flops_to_bare"]
    assert stride["realised"]["low"] == pytest.approx((1 - wall["high"]) / saved)
    assert all("ttft_s" not in row for row in found["cells"] if row["idle"])
    assert not foveate.is_compressed(measured.model)
    assert [type(t).__name__ for t in tables(found, str)] == ["Table", "Table", *["str"] * 3]
    assert found["limits"].keys() == {"idle_before", "idle_inside"}
    assert found["limits"]["idle_before"]["pairs"] == 2


def test_a_killed_bench_goes_on_where_it_stopped(tmp_path, monkeypatch):
    out, made = tmp_path / "r.json", []
    cells = [Cell(BARE, 1.0, 1), Cell("stride", 4, 1), Cell("fastv", 4, 1)]

    class Killed(subject().__class__):
        def counts(self, method):
            made.append(type(method).__name__)
            if len(made) == 3:
                raise KeyboardInterrupt
            return super().counts(method)

    watched = Killed("tiny", LLAVA.model(), subject().inputs)
    with pytest.raises(KeyboardInterrupt):
        bench(watched, cells, None, out)
    assert not out.exists() and [p.name for p in tmp_path.iterdir()] == ["r.json.partial"]
    found = bench(watched, cells, None, out)
    # What a method counts is told beside the bare model's counts.
    assert made == ["NoneType", "Stride", "FastV", "FastV", "NoneType"] and found["resumed"] == 2
    assert json.loads(out.read_text()) == json.loads(dumps(found))
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_cells_of_another_run_are_neither_taken_over_nor_lost(tmp_path):
    partial = tmp_path / "r.json.partial"
    cells = {"stride 4 × 1": {"stale": True}}
    text = dumps(sealed({"kind": KIND, "key": {"seed": 7}, "cells": cells}))
    write(partial, text)
    with pytest.raises(FileExistsError, match=r"1 finished cells .* seed"):
        bench(subject(), [Cell("stride", 4, 1)], None, tmp_path / "r.json")
    assert partial.read_text() == text


@pytest.mark.parametrize("text", ['{"key": {}, "cells": {}}', '{"key"', b"\xff", None])
def test_cells_that_are_not_as_written_are_measured_again(tmp_path, text):
    """Above all those of a half-written file, or of one that was changed."""
    partial, out = tmp_path / "r.json.partial", tmp_path / "r.json"
    write(partial, text) if text is not None else partial.mkdir()
    with pytest.warns(UserWarning, match=r"r\.json\.partial is not what was written there"):
        found = bench(subject(), [Cell("stride", 4, 1)], None, out)
    assert found["resumed"] == 0 and len(found["cells"]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_cell_the_model_cannot_carry_out_is_left_out_and_says_why():
    class Refusing(Subject):
        def counts(self, method):
            return counts(self.model, self.inputs(1), method and FastV(4, layer=99))

    model = LLAVA.model()
    found = bench(Refusing("tiny", model, subject().inputs), [Cell("fastv", 4, 1)], None)
    assert found["cells"] == [] and "layers 0 to 4" in found["left_out"][0]["why"]


def tiny_named():
    """LLaVA-1.5 as CONFIGS has it, but shallow and with few patches."""
    arguments = SMALL | {
        "vision_config": SMALL["vision_config"] | {"image_size": 56, "num_hidden_layers": 4},
        "text_config": SMALL["text_config"] | {"num_hidden_layers": 4, "hidden_size": 192},
        "image_seq_length": 16,
    }
    pixels = lambda n, draw: {"pixel_values": torch.randn(n, 3, 56, 56, generator=draw)}  # noqa: E731
    return Named("none", arguments, 16, pixels)


@pytest.mark.parametrize("slug", METHODS)
def test_on_paper_is_what_the_model_itself_counts(slug):
    """Also of methods with weights, which are made for the real model's widths."""
    named = tiny_named()
    paper, spec = Paper(named, torch.float32), Spec(slug, METHODS[slug])
    keep = next((k for k in (4, 0.25) if crossed([spec], [k])[0] and not spec.settled), None)
    method = Cell(slug, keep, 1).compressor(paper.whole)
    assert paper.counts(method) == counts(build(named.config()), named.inputs(), method)


def test_on_paper_nothing_is_guessed():
    class Ragged(Compressor):
        seen = 0

        def arguments(self):
            return {}

        def forward(self, tokens, context):
            Ragged.seen += 1
            return tokens.where(torch.arange(16)[None] < Ragged.seen + 4)

    with pytest.raises(ValueError, match=r"depends on the picture \(5 or 6 visual columns"):
        Paper(tiny_named()).counts(Ragged())


def test_a_router_that_was_never_trained_is_named():
    """It keeps all; at one scale there is nothing to train. What it costs is in the scorer's column."""
    routed, one = arguments.specs("focusllava(only=vision),focusllava(only=vision, scales=[2])")
    cells = [Cell("routed", None, 1, spec=routed), Cell("one", None, 1, spec=one)]
    found = bench(Subject("tiny", paper=Paper(tiny_named())), cells)["cells"]
    assert [cell["tokens"] for cell in found] == [16, 4]
    assert [cell.get("untrained") for cell in found] == [["RegionSampler"], None]
    # One region: a mean, a maximum and the whole, 192 wide each, the whole being a mean of 16 tokens.
    assert found[0]["macs"]["scorer"] == 3 * 192 * 512 + 512 * 3 + 16 * 192
    assert found[1]["macs"]["scorer"] == 0  # of one scale a maximum, which multiplies nothing


def test_llava_stf_costs_what_its_authors_say():
    """41.1 GMAC for the connector, where LLaVA-1.5-7B has 12.1, and 144 tokens."""
    paper = Paper(CONFIGS["llava-1.5-7b"])
    bare, small = paper.counts(), paper.counts(Cell("llava_stf", None, 1).compressor(paper.whole))
    assert small["tokens_per_layer"] == [144] * 32
    found = [round(one["macs"]["connector"] / 1e9, 1) for one in (bare, small)]
    assert found == [12.1, 41.1] and small["macs"]["scorer"] == 0
    assert small["macs"]["vision"] == bare["macs"]["vision"]


def llavolta_named():
    """LLaVA-1.5's depths and columns, with the small model's widths and tower."""
    text = SMALL["text_config"] | {"num_hidden_layers": 32}
    return Named(
        "none", SMALL | {"text_config": text}, CONFIGS["small"].visual, CONFIGS["small"].pixels
    )


@pytest.fixture(scope="module")
def seven_b():
    """A model on paper as deep as LLaVA-1.5-7B, asked with as many columns."""
    return Subject("deep", paper=Paper(llavolta_named()))


# (layer, stride) → per cent, of 32 layers and 576 tokens. Chen et al. 2024, arXiv:2406.20092.
RATIOS = {
    **{(2, 16): 826, (2, 8): 557, (2, 4): 337, (2, 2): 188, (8, 8): 291, (1, 64): 2156},
    **{(16, 16): 188, (16, 8): 178, (16, 4): 160, (16, 2): 133},
}


@pytest.mark.parametrize(("layer", "stride"), RATIOS)
def test_llavoltas_compression_is_what_the_meter_counts(seven_b, layer, stride):
    found = seven_b.counts(Pool(stride, layer=layer))
    assert found["tokens_per_layer"] == [576] * layer + [576 // stride] * (32 - layer)
    assert round(100 * found["compression"]) == RATIOS[layer, stride]


def test_the_result_file_of_llavolta_says_the_same():
    found = json.loads((ROOT / "results" / "bench-llavolta.json").read_text())
    cells = {cell["method"]: cell for cell in found["cells"]}
    assert found["prompt"]["visual"] == 576
    assert cells.pop(BARE)["compression"] == 1.0
    written = {f"pool(layer={k}, stride={s})": percent for (k, s), percent in RATIOS.items()}
    assert {name: round(100 * cell["compression"]) for name, cell in cells.items()} == written
    for cell in cells.values():
        assert len(cell["tokens_per_layer"]) == 32 and cell["keep"] is None


# (layer, stride) of each stage; stride 1 is none. The ratios are those of the paper's own stages.
@pytest.mark.parametrize(
    ("stages", "percent"),
    [
        (((2, 8), (2, 2), (16, 2), (0, 1)), 163),
        (((2, 8), (16, 8), (16, 2), (0, 1)), 161),
        (((2, 16), (16, 16), (16, 4)), 235),
    ],
)
def test_the_compression_of_a_schedule_is_the_ratio_of_the_means(seven_b, stages, percent):
    pools = [Identity() if stride == 1 else Pool(stride, layer=k) for k, stride in stages]
    ends = [(i / len(pools), pool) for i, pool in enumerate(pools, start=1)]
    found = training_cost(seven_b, Stages(*ends))
    assert round(100 * found.compression) == percent
    assert [stage.share for stage in found.stages] == pytest.approx([1 / len(pools)] * len(pools))


def test_training_costs_the_mean_of_its_stages():
    measured, late = subject(), Pool(4, layer=3)
    bare, pooled, half = (
        measured.counts(m)["macs"]["total"] for m in (None, Pool(4), Pool(4, layer=3))
    )
    found = training_cost(measured, Stages((0.25, Pool(4)), (0.75, late), (1.0, Identity())))
    assert [stage.share for stage in found.stages] == [0.25, 0.5, 0.25]
    assert [stage.macs for stage in found.stages] == [pooled, half, bare]
    assert found.macs == pytest.approx(pooled / 4 + half / 2 + bare / 4)
    assert found.bare_macs == bare and found.to_bare == found.macs / bare < 1
    # 16 patches in 5 layers: 4, then 16 16 16 4 4, then 16.
    assert found.equivalent_tokens == pytest.approx(4 / 4 + (3 * 16 + 2 * 4) / 5 / 2 + 16 / 4)
    assert found.compression == pytest.approx(16 / found.equivalent_tokens)
    assert json.loads(dumps(found.as_dict()))["to_bare"] == found.to_bare
    assert found.stages[2].compression == 1.0 and not foveate.is_compressed(measured.model)
    alone = training_cost(measured, late)
    assert alone.macs == half and len(alone.stages) == 1
    with pytest.raises(ValueError, match="steps=0"):
        training_cost(measured, late, steps=0)


@pytest.mark.parametrize(
    ("name", "billions", "visual"),
    [
        *(("llava-1.5-7b", 7.063, 576), ("small", 0.089, 576), ("slice", 0.557, 576)),
        *(("llava-next-8b", 8.355, 2928), ("qwen2.5-vl-7b", 8.292, 1296)),
    ],
)
def test_named_models_have_the_size_of_their_checkpoints(name, billions, visual):
    model = cost.skeleton(CONFIGS[name].config())
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)
    ids = CONFIGS[name].inputs(2)["input_ids"]
    is_visual = ids == model.config.image_token_id
    assert is_visual.sum(1).tolist() == [visual, visual] and ids.shape[1] == visual + TEXT


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_named_models_take_their_prompts(name):
    found = Paper(CONFIGS[name]).counts()
    assert set(found["tokens_per_layer"]) == {CONFIGS[name].visual}
    parts = found["macs"]
    assert sum(parts[p] for p in ("vision", "connector", "scorer", "language")) == parts["total"]
    assert found["flops"]["total"] == 2 * parts["total"]


def test_what_does_not_fit_is_refused_with_numbers(monkeypatch):
    monkeypatch.setattr("foveate.bench.memory.available", lambda device: 20 * 2**30)
    named = CONFIGS["llava-1.5-7b"]
    with pytest.raises(MemoryError, match=r"27\.\d GiB in float32 .* 20\.0 GiB free"):
        fits(named, torch.float32, 1, 1, "cpu")
    fits(named, torch.bfloat16, 1, 1, "cpu")
    with pytest.raises(MemoryError, match="batch size 64"):
        fits(named, torch.bfloat16, 64, 1, "cpu")


def test_a_cell_that_is_too_large_is_left_out_and_says_why(monkeypatch):
    """Before it is begun: by its memory, and by its time at the pace of the cell before."""
    cells = [Cell(BARE, 1.0, batch) for batch in (1, 1000)]
    quick = Effort(pairs=1, rounds=0, new_tokens=(1,), seconds=30)
    found = bench(subject(), cells, quick)
    assert [row["batch"] for row in found["cells"]] == [1]
    assert "3 rounds take about" in found["left_out"][0]["why"]
    monkeypatch.setattr("foveate.bench.memory.available", lambda device: 2**20)
    found = bench(subject(), cells[1:], quick)
    assert "and cpu has 0.0 GiB free" in found["left_out"][0]["why"]


def test_a_method_that_fails_leaves_the_others_of_its_round():
    class Failing(Compressor):
        def forward(self, tokens, context):
            if len(tokens.x) > 1:
                raise RuntimeError("one image at a time")
            return tokens

        def arguments(self):
            return {}

    failing = Spec("failing", lambda keep=None: Failing())
    cells = [Cell(BARE, 1.0, 2), Cell("failing", 1.0, 2, spec=failing), Cell("stride", 4, 2)]
    found = bench(subject(), cells, Effort(1, 1, (1,)))
    assert [row["method"] for row in found["cells"]] == [BARE, "stride"]
    assert found["cells"][1]["to_bare"]["pairs"] == 1
    assert [row["why"] for row in found["left_out"]] == ["RuntimeError: one image at a time"]


def test_cells_take_turns_by_image_and_batch_size():
    cells, _ = plan([Spec("stride", METHODS["stride"])], [4, 5], [1, 2], visuals=[576, 64])
    turns = groups(cells, QUICK)
    assert [[(c.visual, c.batch) for c in turn] for turn in turns] == [
        *([(576, 1)] * 4, [(576, 2)] * 3),  # the first with the idle one
        *([(64, n)] * 3 for n in (1, 2)),
    ]
    assert [len(turn) for turn in groups(cells + cells[-1:] * 20, QUICK)] == [4, 3, 3, 12, 11]
    assert {len(turn) for turn in groups(cells, None)} == {1}


def test_images_of_several_sizes(capsys, tmp_path):
    out = tmp_path / "r.json"
    asked = ["--methods", "stride", "--keeps", "0.5", "--count-only", "--out", str(out)]
    assert run(["bench", *asked, "--image-tokens", "1440,576", "--batch-sizes", "1,2"]) == 0
    cells = json.loads(out.read_text())["cells"]
    assert [(c["asked"], c["visual"], c["batch"], c["tokens"]) for c in cells] == [
        *((576, 576, n, tokens) for n in (1, 2) for tokens in (576, 288)),
        *((1440, 38**2, n, tokens) for n in (1, 2) for tokens in (38**2, 38**2 // 2)),
    ]
    assert (
        cells[0]["flops_to_bare"] == 1 > cells[1]["flops_to_bare"] > cells[5]["flops_to_bare"] > 0.4
    )
    assert run(["bench", *asked, "--model", "qwen2.5-vl-7b", "--image-tokens", "576"]) == 2
    assert "want another model" in capsys.readouterr().err


def test_training_steps_leave_nothing_behind():
    """Every prompt of a step is seen at its length; the head runs where its last 16 columns are learnt."""
    model, inputs, seen, said = LLAVA.model(), LLAVA.inputs([ONE] * 2), [], []
    layers = counts(model, inputs, FastV(4))["tokens_per_layer"]
    decoder = model.model.language_model
    decoder.register_forward_hook(lambda m, args, out: seen.append(out[0].shape[1]))
    model.lm_head.register_forward_hook(lambda m, args, out: said.append(out.shape[1]))
    found = training_steps(model, inputs, FastV(4), layers, 2)
    assert {*seen} == {16 + 9, 4 + 9} and {*said} == {16, 4 + 9 - 1}
    for step in found.values():
        assert step["step_s"]["median"] > 0 and step["to_limit"]["pairs"] == 2
        assert step["peak_to_bare"] == step["peak_to_limit"]  # two layers see all
    assert found["checkpointing"]["peak_bytes"] != found["plain"]["peak_bytes"]
    assert not (model.training or model.is_gradient_checkpointing or foveate.is_compressed(model))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rounds_end_in_time_but_for_the_fewest():
    done = []
    late = interleaved({"a": lambda: done.append(1)}, 9, 1, until=0.0)
    assert len(late["a"]) == 3 and len(done) == 4


@pytest.mark.parametrize("out", [".", "..", "/", "here", "here/..", "file/b.json", "file/a/b.json"])
def test_a_place_that_is_no_file_is_refused_before_all_work(capsys, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("mine")
    assert run(["bench", "--model", "no such model", "--methods", "stride", "--out", out]) == 2
    said = capsys.readouterr().err
    want = f"want a file, such as {Path(out, 'bench.json')}"
    want = "no folder can be made there" if "file" in out else want
    assert said.count("\n") == 1 and said.startswith("foveate: --out ") and want in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "here"]


def test_the_command_counts_large_models(capsys, tmp_path):
    out = tmp_path / "r.json"
    asked = ["--methods", "stride,pool", "--keeps", "192,0.25", "--count-only", "--out", str(out)]
    assert run(["bench", "--model", "small", *asked, "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document == json.loads(out.read_text())
    cells = [(c["method"], c["keep"]) for c in document["cells"]]
    assert cells == [(BARE, 1.0), ("stride", 192), ("stride", 0.25), ("pool", 0.25)]
    assert [(s["method"], s["keep"]) for s in document["left_out"]] == [("pool", 192)]
    assert "left out: pool" in shown.err


def test_methods_with_arguments_of_their_own(capsys, tmp_path):
    out = tmp_path / "r.json"
    specs = "pool(stride=8, layer=2),pool(layer=2),llavolta(schedule=light),stride,pool(stride=16)"
    asked = ["--methods", specs, "--keeps", "0.25", "--count-only", "--out", str(out)]
    assert run(["bench", "--model", "small", *asked]) == 0
    assert "pool(stride=8, layer=2)" in capsys.readouterr().out
    cells = json.loads(out.read_text())["cells"]
    assert [(c["method"], c["keep"], c["compressor"]) for c in cells] == [
        (BARE, 1.0, "bare"),
        ("pool(stride=8, layer=2)", None, "Pool(stride=8, layer=2, dims=1)"),
        ("pool(layer=2)", 0.25, "Pool(stride=4, layer=2, dims=1)"),
        # The model has 12 layers, and half its depth is layer 6.
        ("llavolta(schedule=light)", None, "Pool(stride=8, layer=6, dims=1)"),
        ("stride", 0.25, "Stride(keep=0.25, layer=0)"),
        ("pool(stride=16)", None, "Pool(stride=16, layer=0, dims=1)"),
    ]
    assert [round(100 * c["compression"]) for c in cells] == [100, 369, 267, 178, 400, 1600]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "llava-1.5-7"], "nearest: llava-1.5-7b"),
        (["--dtype", "float"], "unknown dtype"),
        (["--methods", "pool", "--keeps", "191"], "nothing to measure"),
        (["--methods", ","], "--methods is empty"),
        (["--keeps", "0.5,0"], "keep=0"),
    ],
)
def test_wrong_use_of_the_command(capsys, words, says):
    assert run(["bench", *words]) == 2
    assert says in capsys.readouterr().err


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


def test_a_missing_git_is_no_error(tmp_path):
    code = "from foveate.keeping.provenance import record; assert record()['commit'] is None"
    subprocess.run([sys.executable, "-c", code], env={"PATH": str(tmp_path)}, check=True)
