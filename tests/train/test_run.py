"""What a run does and leaves behind: data of any kind, evaluations, adapters, and clear refusals."""

from __future__ import annotations

import math
import runpy
import time
from dataclasses import replace
from pathlib import Path

import pytest
import small
import torch
from small import ADAPTERS, LEARNED, RANDOM, STAGED
from torch.utils.data import IterableDataset
from transformers import AutoModelForImageTextToText, AutoProcessor

import foveate
from foveate.train import RECIPES, DataError, Record, Records, Turn, run


class Stream(IterableDataset):
    """Records without a length, as those that do not fit memory come."""

    def __init__(self, records):
        self.records = records

    def __iter__(self):
        return iter(self.records)


DRAWN = {**RANDOM, **ADAPTERS, "trains": {"lora": 1e-2}}


@pytest.mark.parametrize(("changes", "every"), [(DRAWN, 2), (STAGED, 1)])
def test_an_evaluation_moves_nothing(card, data, tmp_path, changes, every):
    """Not the schedule, not the random draws, not the dropout of adapters."""
    bare = run(card(**changes), tmp_path / "bare")
    seen = run(card(**changes, validation=str(data), evaluate_every=every), tmp_path / "seen")
    assert small.losses(bare) == small.losses(seen)
    checks = [entry["step"] for entry in seen["history"] if "eval_loss" in entry]
    assert checks == [*range(every, 7, every)]
    assert not any("eval_loss" in entry for entry in bare["history"])


def test_a_stream_trains_as_its_list(card, data, tmp_path):
    records = Records(data, data.parent)
    order = {"order": "sequential", "steps": 3, "micro_batch": 4}
    listed = run(card(**order), tmp_path / "listed")
    streamed = run(card(**order), tmp_path / "streamed", Stream(records))
    assert small.losses(streamed) == small.losses(listed)
    with pytest.raises(ValueError, match="without a length wants steps"):
        run(card(steps=None), tmp_path / "endless", Stream(records))


def test_epochs(card, tmp_path):
    """Thirty records in batches of eight: four steps, each epoch in another order."""
    done = run(card(steps=None, epochs=1.5), tmp_path / "out")
    assert done["steps"] == 6


def test_the_folder_comes_back(card, model, tmp_path):
    """With foveate as it was at the end, with transformers the bare model; both know the processor."""
    out = tmp_path / "out"
    run(card(**LEARNED), out)
    back, plain = foveate.from_pretrained(out), AutoModelForImageTextToText.from_pretrained(out)
    assert repr(back.model.visual_compressor) == repr(
        foveate.sized(foveate.METHODS["depthwise"], back, keep=0.25, layer=1)
    )
    saved = small.weights(out)
    assert saved["model.visual_compressor.gate"].abs() > 0
    assert torch.equal(back.model.visual_compressor.gate, saved["model.visual_compressor.gate"])
    first, head = AutoModelForImageTextToText.from_pretrained(model), "lm_head.weight"
    assert torch.equal(plain.state_dict()[head], back.state_dict()[head])
    assert not torch.equal(plain.state_dict()[head], first.state_dict()[head])
    assert plain.config.text_config.use_cache
    assert AutoProcessor.from_pretrained(out).tokenizer.eos_token == "</s>"
    assert (out / "loss.png").stat().st_size > 5000


def test_a_checkpoint_remembers_its_last_stage(card, tmp_path):
    out = tmp_path / "out"
    done = run(card(method="llavolta", arguments={"schedule": "last_stage"}, steps=3), out)
    assert done["recipe"]["arguments"] == {"schedule": "last_stage"}
    for folder in (out, out / "checkpoint-2"):
        back = foveate.from_pretrained(folder).eval()
        method = back.model.visual_compressor
        assert method.until == pytest.approx([1 / 3, 2 / 3, 1])
        (part,) = method.parts()
        assert (part.site.layer, part.stride) == (2, 4)  # layer 16 of 32 is layer 2 of 4


@pytest.mark.parametrize("changes", [LEARNED, STAGED], ids=["depthwise", "stages"])
def test_adapters(card, model, data, tmp_path, changes):
    """They learn with projector and compressor and nothing else; merged, the answers are the same."""
    from peft import PeftModel

    out = tmp_path / "out"
    run(card(**changes, **ADAPTERS), out)
    before, after = small.weights(model), small.weights(out)
    kinds = {n for n in before if not torch.equal(before[n], after[n])}
    tuned = ("multi_modal_projector", "self_attn", "mlp")
    assert kinds and all(any(word in n for word in tuned) for n in kinds)
    assert not any("vision_tower" in n for n in kinds)
    assert any("multi_modal_projector" in n for n in kinds)
    assert sum("language_model" in n for n in kinds) == 7 * small.LAYERS
    added = {n for n in after if n not in before}
    assert all("visual_compressor" in n for n in added)

    merged = foveate.from_pretrained(out).eval()
    bare = AutoModelForImageTextToText.from_pretrained(model)
    method = foveate.train.model.build(card(**changes), bare.config)
    apart = PeftModel.from_pretrained(foveate.compress(bare, method), out / "adapter").eval()
    processor = AutoProcessor.from_pretrained(out)
    record = Records(data, data.parent)[1]
    inputs = foveate.train.Collator(processor)([record])
    with torch.no_grad():
        torch.testing.assert_close(
            merged(**inputs).logits, apart(**inputs).logits, atol=1e-4, rtol=1e-4
        )


def test_pretraining_wants_captions(card, tmp_path):
    with pytest.raises(DataError, match="wants one caption, not 2\n"):
        run(card(template="plain"), tmp_path / "out")


ASKED, SAID = Turn("user", "Say a."), Turn("assistant", "a red dog")
OWN = [Record(str(n), (), (ASKED, SAID), f"made, {n}") for n in range(8)]


def test_a_set_of_records_of_ones_own(card, tmp_path):
    done = run(card(steps=2), tmp_path / "out", OWN)
    assert all(map(math.isfinite, small.losses(done)))
    with pytest.raises(ValueError, match="without has_images cannot be grouped"):
        run(card(order="grouped"), tmp_path / "grouped", OWN)


def test_text_alone_teaches_the_projector_nothing(card, model, tmp_path):
    """No gradient reaches it, and the run goes on: other batches have pictures."""
    out = tmp_path / "out"
    run(card(steps=1, trains={"projector": 1e-2}), out, OWN)
    before, after = small.weights(model), small.weights(out)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tensorboard": True}, "pip install tensorboard"),
        ({"deepspeed": "zero3.json"}, "pip install deepspeed"),
    ],
)
def test_what_is_not_installed(card, tmp_path, changes, says):
    from importlib.util import find_spec

    if any(find_spec(name) for name in changes):
        pytest.skip("installed here")
    with pytest.raises(ImportError, match=says):
        run(card(**changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trains": {"compressor": 1e-3}}, "nothing would learn"),
        ({"batch": 9}, "batch=9 is no multiple of micro_batch=8 × 1 devices"),
        ({**ADAPTERS, "trains": {"lora": 1e-3, "vision": 1e-3}}, "only projector and compressor"),
        ({"method": "pool", "arguments": {"layer": 9}}, "decoder layers 0 to 3"),
    ],
)
def test_refusals(card, tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        run(replace(card(), **changes), tmp_path / "out")


def test_sharding_wants_gpus(card, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="fsdp=True on 2 processes of cpu"):
        run(card(fsdp=True), tmp_path / "out")


def test_a_connector_that_starts_warm_begins_where_the_projector_does(card, tmp_path):
    """As average pooling and the same shrunk projector: the first loss is the same, the next is not."""
    rates = {"compressor": 1e-2, "projector": 1e-2, "language": 1e-2}
    pool = {"method": "pool", "arguments": {"stride": 2, "dims": 2}}
    pooled = run(card(**pool, trains=rates, shrink=0.5), tmp_path / "pooled")
    del rates["projector"]
    connector = {"method": "llava_stf", "trains": rates, "shrink": 0.5}
    warm = run(card(**connector, warm_start=True), tmp_path / "warm")
    cold = run(card(**connector), tmp_path / "cold")
    first, second = (math.isclose(a, b, rel_tol=1e-5) for a, b in _pairs(warm, pooled)[:2])
    assert first and not second
    assert not math.isclose(*_pairs(cold, pooled)[0], rel_tol=1e-4)


def test_a_connector_learns_alone_and_then_with_the_language_model(card, model, tmp_path):
    """Two stages; the old projector stays as it was, for plain transformers."""
    before = small.weights(model)
    connector = {"method": "llava_stf", "positions": "renumbered"}
    run(card(**connector, trains={"compressor": 1e-2}), tmp_path / "one")
    one = small.weights(tmp_path / "one")
    learnt = {"compressor": 1e-2, "language": 1e-2}
    run(card(**connector, trains=learnt), tmp_path / "two", model=str(tmp_path / "one"))
    two = small.weights(tmp_path / "two")
    assert before.keys() < one.keys() == two.keys()
    for name, value in one.items():
        if name in before:
            assert torch.equal(value, before[name]), name
        own = "visual_compressor" in name or "language_model" in name or "lm_head" in name
        assert torch.equal(value, two[name]) != own, name
    back = foveate.from_pretrained(tmp_path / "two")
    assert isinstance(back.model.visual_compressor, foveate.LLaVASTF)
    assert back.config.visual_compression["positions"] == "renumbered"


def test_a_model_learns_with_what_its_recipe_says_of_dropped_tokens_and_of_their_sizes(
    card, tmp_path
):
    """The losses are others, and a saved model is told the same."""
    plain = {"method": "divprune", "arguments": {"keep": 4}, "steps": 1}
    losses = {
        name: small.losses(run(card(**plain, **how), tmp_path / name))[0]
        for name, how in {
            "gone": {},
            "merged": {"dropped": "merged"},
            "both": {"dropped": "merged", "proportional": True},
        }.items()
    }
    assert len(set(losses.values())) == 3
    said = foveate.from_pretrained(tmp_path / "both").config.visual_compression
    assert (said["dropped"], said["attention"]) == ("merged", "proportional")


def test_a_warm_start_does_not_undo_training(card, tmp_path):
    connector = {"method": "llava_stf", "trains": {"compressor": 1e-2}, "steps": 1}
    run(card(**connector, warm_start=True), tmp_path / "one")
    with pytest.raises(ValueError, match="has a compressor with weights that were trained"):
        run(card(**connector, warm_start=True), tmp_path / "two", model=str(tmp_path / "one"))
    assert not (tmp_path / "two" / "model.safetensors").exists()


def test_a_warm_connector_beside_adapters(card, tmp_path):
    changes = {**ADAPTERS, "method": "llava_stf", "warm_start": True, "steps": 1}
    run(card(**changes), tmp_path / "out")
    back = foveate.from_pretrained(tmp_path / "out")
    assert isinstance(back.model.visual_compressor, foveate.LLaVASTF)


def _pairs(one, two):
    return list(zip(small.losses(one), small.losses(two), strict=True))


def test_names_mean_in_python_what_they_mean_on_the_command_line(tmp_path):
    """The recipe's own model and task, given nothing else."""
    card = replace(RECIPES["patchqa"](), steps=1, batch=2, micro_batch=2)
    assert run(card, tmp_path, device="cpu")["steps"] == 1
    assert foveate.from_pretrained(str(tmp_path)).config.model_type == "llava"


def test_where_the_time_of_a_step_goes(card, tmp_path):
    """Every step is told whole, in parts that follow one another: recipes/training_speed.py adds them up."""
    told = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "training_speed.py"))
    timeline = told["Timeline"]()
    begun = time.perf_counter()
    run(card(steps=3), tmp_path / "run", callbacks=[timeline])
    taken = time.perf_counter() - begun
    parts = {"data", "forward", "backward", "optimizer", "rest"}
    assert [step.keys() for step in timeline.steps] == [parts] * 3
    assert sum(sum(step.values()) for step in timeline.steps) < taken
    shares = told["told"](timeline.steps)["shares"]
    assert shares.keys() == {*parts, "outside"}
    assert 0 < shares["outside"]["median"] < 1
