"""What learns and how fast: by part, by pattern, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from families import FAMILIES, ONE, TWO, VIDEO_ID
from peft import get_peft_model_state_dict

import foveate
from foveate import (
    DepthwiseConv,
    LLaVASTF,
    MultiBlockFusion,
    SpatialFusion,
    Stages,
    Stride,
    compress,
)
from foveate.hosts import traits
from foveate.train import Lora, parts, run
from foveate.train.data import Collator, Records
from foveate.train.model import load
from foveate.train.trainer import VisualTrainer, arguments


@pytest.fixture
def loaded(card):
    return load(card(**small.LEARNED))[0]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_parameter_has_a_part(name):
    """On every family: a tower, a language model and what stands between them, nothing left over."""
    model = FAMILIES[name].model("sdpa")
    found = parts.parts_of(model)
    assert found.keys() == {n for n, _ in model.named_parameters()}
    assert set(found.values()) == {"vision", "projector", "language"}
    assert all("layers" not in n for n, part in found.items() if part == "projector")
    embeddings = next(n for n in found if "embed_tokens" in n)
    assert found[embeddings] == "language"


def test_the_last_entry_that_fits_counts(loaded):
    trains = {"language": 1e-3, "*.layers.0.*": 5e-4, "*.layers.0.mlp.*": 1e-4, "compressor": 2e-3}
    rates = parts.learning_rates(loaded, trains)
    assert rates["model.language_model.layers.1.mlp.up_proj.weight"] == 1e-3
    assert rates["model.language_model.layers.0.self_attn.q_proj.weight"] == 5e-4
    assert rates["model.language_model.layers.0.mlp.up_proj.weight"] == 1e-4
    assert rates["model.visual_compressor.gate"] == 2e-3
    assert rates["lm_head.weight"] == 1e-3
    assert not any("multi_modal_projector" in n for n in rates)
    swapped = parts.learning_rates(loaded, {"*.layers.0.*": 5e-4, "language": 1e-3})
    assert swapped["model.language_model.layers.0.mlp.up_proj.weight"] == 1e-3


def test_unknown_parts_say_what_there_is(loaded):
    with pytest.raises(
        ValueError, match=r"'tower': no parameter fits; the parts are compressor, lang"
    ):
        parts.freeze(loaded, {"tower": 1e-3})
    with pytest.raises(ValueError, match=r"names such as 'model\.vision_tower"):
        parts.freeze(loaded, {"*.layers.77.*": 1e-3})


def test_a_method_without_weights_has_no_part(card):
    bare = load(card())[0]
    assert "projector" in set(parts.parts_of(bare).values())
    assert parts.freeze(bare, {"projector": 1e-3, "compressor": 1e-3})
    with pytest.raises(ValueError, match="nothing would learn"):
        parts.freeze(bare, {"compressor": 1e-3})


TRAINS = {"projector": 1e-3, "compressor": 2e-3}
BEFORE = {"gemma3": ["mm_soft_emb_norm"], "mistral3": [".norm", "patch_merger"]}  # in connectors


@pytest.mark.parametrize("name", ["gemma3", "llava", "mistral3", "smolvlm", "llava_next"])
@pytest.mark.parametrize("adapters", [False, True])
def test_a_projector_that_never_runs_does_not_learn(name, adapters):
    """It is frozen and stays as loaded; what runs, also of its connector, gets a gradient."""
    family = FAMILIES[name]
    model = family.model().bfloat16()
    compress(model, SpatialFusion.for_model(model)).train()
    trains = TRAINS | ({"lora": 1e-3} if adapters else {})
    if adapters:
        model = parts.adapted(model, Lora(rank=2, alpha=4), trains)
    connector = [n for n, part in parts.parts_of(model).items() if part == "projector"]
    rates = parts.freeze(model, trains)
    held = dict(model.named_parameters())
    assert all(held[n].dtype == (torch.float32 if n in rates else torch.bfloat16) for n in held)
    inputs = family.inputs((ONE, TWO))
    inputs = {n: v.bfloat16() if v.is_floating_point() else v for n, v in inputs.items()}
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs, labels=labels.where(labels < VIDEO_ID, -100)).loss.backward()
    assert all(held[n].grad is not None for n in rates)
    runs = {n for n in connector if n in rates}
    before = BEFORE.get(name, [] if adapters else ["image_newline"])
    assert runs == {n for n in connector if any(part in n for part in before)}
    saved = any(".modules_to_save." in n for n in connector)
    assert saved == (adapters and name in BEFORE)


@pytest.mark.parametrize("method", [SpatialFusion, LLaVASTF])
def test_a_projector_that_never_runs_cannot_learn_alone(method):
    model = FAMILIES["llava"].model()
    compress(model, method.for_model(model))
    with pytest.raises(ValueError, match=r"train the compressor in its place; nothing would learn"):
        parts.freeze(model, {"projector": 1e-3})


def test_a_projector_that_runs_learns():
    """Behind multi-block fusion, and in a schedule that comes back to it."""
    model = FAMILIES["llava"].model()
    fused = SpatialFusion.for_model(model)
    for method in (MultiBlockFusion.for_model(model), Stages((0.5, fused), (1.0, Stride(4)))):
        rates = parts.freeze(compress(model, method), {"projector": 1e-3})
        assert len(rates) == 4 and all("multi_modal_projector" in n for n in rates)


def test_the_optimizer_has_these_rates(card, data, tmp_path):
    """A group for each rate, with decay and without; every learning parameter is in exactly one."""
    recipe = card(
        **small.LEARNED,
        trains={"projector": 1e-3, "language": 2e-4, "*.layers.0.*": 5e-5, "compressor": 7e-3},
        weight_decay=0.1,
    )
    model, processor = load(recipe)
    rates = parts.freeze(model, recipe.trains)
    settings = arguments(recipe, tmp_path, "cpu", 1, False, 4)
    trainer = VisualTrainer(
        recipe,
        rates,
        False,
        model=model,
        args=settings,
        train_dataset=Records(data, data.parent),
        data_collator=Collator(processor),
    )
    optimizer = trainer.create_optimizer()
    found = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert learning.keys() == rates.keys()
    assert len(found) == len(learning) == sum(len(g["params"]) for g in optimizer.param_groups)
    for name, parameter in learning.items():
        group = found[id(parameter)]
        assert group["lr"] == rates[name], name
        plain = "norm" in name or name.endswith("bias")
        assert group["weight_decay"] == (0.0 if plain else 0.1), name


def test_a_router_learns_at_a_rate_of_its_own(card):
    """By a pattern beside the part that it belongs to; by default as fast as the rest of the part."""
    arguments = {"region": 2, "scales": [1, 2], "hidden": 8}
    trains = {"language": 2e-5, "compressor": 2e-5, "*router*": 1e-3}
    model, _ = load(card(method="focusllava", arguments=arguments, trains=trains))
    rates = parts.freeze(model, trains)
    router = {n for n in parts.named(model, "compressor") if "router" in n}
    assert len(router) == 6 and all("visual_compressor" in n for n in router)
    assert {n for n, rate in rates.items() if rate == 1e-3} == router
    plain = parts.learning_rates(model, {"compressor": 2e-5})
    assert plain == dict.fromkeys(router, 2e-5)
    found = parts.groups(model, rates, set(), 0.0)
    assert {len(g["params"]) for g in found if g["lr"] == 1e-3} == {6}


def test_frozen_parts_do_not_move(card, model, tmp_path):
    """And those that learn do: every one that a loss depends on."""
    trains = {"compressor": 1e-2, "*.layers.2.*": 1e-2}
    run(card(**small.LEARNED, trains=trains), tmp_path)
    before, after = small.weights(model), small.weights(tmp_path)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in before if "language_model" in n and ".layers.2." in n}
    assert after["model.visual_compressor.gate"].item() != 0


def test_shrinking_leaves_the_rest(card):
    """What learns becomes share × old + (1 − share) × fresh; the tower and the compressor stay."""
    recipe = card(shrink=0.5)
    whole, half = (
        load(replace(recipe, method=DepthwiseConv(small.WIDTH, 4, 1)))[0] for _ in range(2)
    )
    half.model.visual_compressor.load_state_dict(whole.model.visual_compressor.state_dict())
    rates = parts.freeze(half, recipe.trains)
    torch.manual_seed(5)
    parts.shrink(half, 0.5, rates)
    before, after = whole.state_dict(), half.state_dict()
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert not any("vision_tower" in n or "visual_compressor" in n for n in moved)
    one = "model.language_model.layers.0.mlp.up_proj.weight"
    assert one in moved and "model.multi_modal_projector.linear_1.weight" in moved
    fresh = 2 * after[one] - before[one]
    assert 0.01 < fresh.std() < 0.03  # transformers' own 0.02
    norm = "model.language_model.norm.weight"
    assert torch.equal(after[norm], before[norm])  # ones both


def test_a_public_name():
    assert foveate.ProgressCallback is foveate.train.ProgressCallback


def test_an_adapter_trains_what_it_saves():
    """Newline embeddings, which no adapter holds, stay as they are."""
    model = FAMILIES["llava_next"].model("sdpa")
    trains = {"lora": 1e-3, "projector": 1e-3}
    adapter = parts.adapted(compress(model, Stride(4)), Lora(rank=2, alpha=4), trains)
    rates = parts.freeze(adapter, trains)
    newline = [n for n, _ in adapter.named_parameters() if n.endswith("image_newline")]
    assert newline and not set(newline) & set(rates)
    saved = get_peft_model_state_dict(adapter)
    assert len(saved) == len(rates)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_shards_are_blocks_that_are_there(name):
    """accelerate finds every class it is told to shard by, compressed or not."""
    model = compress(FAMILIES[name].model("sdpa"), Stride(4))
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=parts.blocks_of(model),
    )
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    decoder = traits.decoder_of(traits.base_of(model))
    assert all(wraps(layer) for layer in decoder.layers) and not wraps(decoder)
