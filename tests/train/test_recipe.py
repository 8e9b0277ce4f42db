"""Recipes: cards that say no early, and build for the models they name."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
)

from foveate import Identity, Pool, embedded
from foveate.methods.llavolta import SCHEDULES
from foveate.train import RECIPES, Lora, Recipe
from foveate.train.model import build
from foveate.train.run import steps_of


def full_size() -> LlavaConfig:
    """LLaVA-1.5-7B's, without a weight."""
    tower = CLIPVisionConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
    return LlavaConfig(vision_config=tower, text_config=LlamaConfig(num_hidden_layers=32))


def with_tiles() -> LlavaNextConfig:
    """LLaVA-NeXT's on Llama 3 8B."""
    whole = full_size()
    text = LlamaConfig(num_hidden_layers=32, num_key_value_heads=8, intermediate_size=14336)
    return LlavaNextConfig(vision_config=whole.vision_config, text_config=text)


CONFIGS = {
    "_7b": full_size,
    "_8b": with_tiles,
    "patchqa": lambda: AutoConfig.from_pretrained(embedded.PATH),
}


def config_of(name: str):
    return next(make for part, make in CONFIGS.items() if part in name)()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_card(name):
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert RECIPES[name].__doc__.splitlines()[0].endswith(".")  # what --list says of it
    assert json.loads(json.dumps(recipe.as_dict()))["name"] == name
    assert recipe == RECIPES[name]()
    assert recipe.accumulate() * recipe.micro_batch == recipe.batch
    with pytest.raises(FrozenInstanceError):
        recipe.batch = 1


@pytest.mark.parametrize("name", RECIPES)
def test_its_method_fits_its_model(name):
    config = config_of(name)
    method = build(RECIPES[name](), config)
    deepest = max(part.site.layer for part in method.every())
    assert deepest < config.get_text_config().num_hidden_layers


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_llavolta_at_full_size(schedule):
    """The layers and strides of the paper, in order; stride 1 is no compression."""
    method = build(RECIPES[f"llavolta_{schedule}_7b"](), full_size())
    stages = getattr(method, "stages", [method])
    found = [
        (part.site.layer, part.stride) if isinstance(part, Pool) else (0, 1)
        for stage in stages
        for part in stage.parts()
    ]
    assert found == list(SCHEDULES[schedule])
    assert all(isinstance(part, Pool | Identity) for part in method.every())
    twin = RECIPES[f"llavolta_{schedule}_patchqa"]()
    assert twin.arguments == RECIPES[f"llavolta_{schedule}_7b"]().arguments


TAUGHT = ("projector", "language", "compressor")
METEOR = {
    "meteor_7b": {"keep": 144},
    "meteor_64_7b": {"keep": 64},
    "meteor_36_7b": {"keep": 36},
    "meteor_random_7b": {"keep": 144, "sampled": [36, 64, 144]},
}


def test_meteors_two_stages():
    """The fusion alone from captions whose words it reads, then with the language model, by question."""
    first = RECIPES["meteor_7b_pretrain"]()
    assert (first.template, first.trains, first.split) == ("plain", {"compressor": 1e-3}, False)
    assert first.arguments == METEOR["meteor_7b"] and first.vision is not None
    for name, arguments in METEOR.items():
        second = RECIPES[name]()
        assert second.method == "meteor" and second.arguments == arguments and second.split
        assert second.trains == {"compressor": 2e-5, "language": 2e-5}
        assert second.model == f"./out/{name}_pretrain" and second.vision is None
        fusion, selection = build(second, full_size()).parts()
        assert (fusion.arguments()["feature_width"], fusion.arguments()["width"]) == (1024, 4096)
        assert selection.keep == arguments["keep"]
    of_meteor = {name for name in RECIPES if name.startswith("meteor_") and "patchqa" not in name}
    assert of_meteor == {"meteor_7b_pretrain", *METEOR}


def test_meteor_in_small():
    """The twins begin as the embedded model's projector, of its hidden width."""
    first, second = RECIPES["meteor_patchqa_pretrain"](), RECIPES["meteor_patchqa"]()
    assert first.warm_start and not second.warm_start
    assert second.model == f"./out/{first.name}" and first.arguments == second.arguments
    assert first.arguments["hidden"] == config_of("patchqa").text_config.hidden_size == 128
    assert first.arguments["keep"] == 36 and first.seed != second.seed
    assert {*first.trains} == {"compressor"} and {*second.trains} == {"compressor", "language"}


def test_focusllavas_two_stages():
    """The base's own projector first, both samplers then; what they draw in training is part of the card."""
    first, second = RECIPES["focusllava_llama3_8b_pretrain"](), RECIPES["focusllava_llama3_8b"]()
    assert (first.method, first.trains, first.template) == (
        "identity",
        {"projector": 1e-3},
        "plain",
    )
    assert first.vision is None and second.model == f"./out/{first.name}"
    assert second.trains == {"vision": 2e-6, **dict.fromkeys(TAUGHT, 2e-5)}
    assert (second.split, second.max_length, second.square) == (True, 6144, False)
    seven, small = RECIPES["focusllava_7b"](), RECIPES["focusllava_patchqa"]()
    assert seven.model == "./out/llava_1_5_7b_pretrain" and seven.split
    assert seven.trains == dict.fromkeys(TAUGHT, 2e-5)
    for recipe in (second, seven, small):
        samplers = {"keep": 0.5, "sampled": [0.3, 1.0]}
        assert (recipe.method, recipe.arguments) == ("focusllava", samplers)
        regions, text = build(recipe, config_of(recipe.name)).parts()
        layers = config_of(recipe.name).get_text_config().num_hidden_layers
        assert (regions.site.layer, text.site.layer) == (0, layers // 2)
        assert regions.explore and regions.scales == (1, 2, 4)
        assert regions.width == config_of(recipe.name).get_text_config().hidden_size
    assert small == replace(
        RECIPES["patchqa"](), name=small.name, method=small.method, arguments=small.arguments
    )


def test_a_router_has_its_own_rate_on_the_command_line():
    from foveate.cli.recipes import chosen

    trains = chosen("focusllava_patchqa", ["trains.*router*=1e-4"]).trains
    assert trains == {**dict.fromkeys(TAUGHT, 1e-3), "*router*": 1e-4}
    assert [*trains][-1] == "*router*"  # the last that fits counts


def test_every_schedule_has_a_recipe():
    of_schedules = {name for name in RECIPES if name.startswith("llavolta_")}
    first = {f"llavolta_{throughout}_7b_pretrain" for throughout in ("heavy", "light")}
    second = {f"llavolta_{s}_{size}" for s in SCHEDULES for size in ("7b", "patchqa")}
    assert of_schedules == first | second


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_llavolta_compresses_pretraining_where_it_compresses_throughout(schedule):
    """Heavy and light, at the same layer and stride; staged schedules begin from LLaVA's own first stage."""
    second = RECIPES[f"llavolta_{schedule}_7b"]()
    first = RECIPES[second.model.removeprefix("./out/")]()
    assert (first.template, first.trains["projector"]) == ("plain", 1e-3)
    if schedule not in ("heavy", "light"):
        assert first == RECIPES["llava_1_5_7b_pretrain"]()
        return
    assert first.name == f"{second.name}_pretrain"
    one, two = (build(recipe, full_size()) for recipe in (first, second))
    assert repr(one) == repr(two) and (one.site.layer, one.stride) == SCHEDULES[schedule][0]


def test_a_compressor_of_ones_own():
    recipe = replace(RECIPES["patchqa"](), method=Pool(stride=8, layer=2))
    assert recipe.as_dict()["method"] == "Pool(stride=8, layer=2, dims=1)"
    assert build(recipe, None) is recipe.method
    assert json.dumps(recipe.as_dict())
    with pytest.raises(ValueError, match="beside a compressor that has its own"):
        replace(recipe, arguments={"keep": 0.5})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": 0}, "batch=0: want at least 1"),
        ({"micro_batch": 0}, "micro_batch=0: want at least 1"),
        ({"steps": 0}, "steps=0: want at least 1"),
        ({"steps": -3}, "steps=-3: want at least 1"),
        ({"epochs": 0.0}, "epochs=0.0: want more than 0"),
        ({"max_length": 0}, "max_length=0: want at least 1"),
        ({"save_every": 0}, "save_every=0: want at least 1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0: want at least 1"),
        ({"evaluate_every": 0}, "evaluate_every=0: want at least 1"),
        ({"batch": 2.5}, "batch=2.5: want a whole number"),
        ({"workers": -1}, "workers=-1: want a whole number from 0 to 64"),
        ({"workers": 100_000}, "workers=100000: want a whole number from 0 to 64"),
        ({"batch": True}, "batch=True: want a whole number"),
        ({"batch": None}, "batch=None: want a whole number"),
        ({"seed": -1}, "seed=-1: want a whole number from 0"),
        ({"seed": 2**32}, "seed=4294967296: want a whole number from 0 to 4294967295"),
        ({"epochs": 1e300}, r"epochs=1e\+300: want more than 0 and at most 10,000"),
        ({"epochs": float("nan")}, "epochs=nan: want more than 0"),
        ({"epochs": 10**400}, "epochs=1000"),
        ({"epochs": "3"}, "epochs='3': want more than 0"),
        ({"clip": float("inf")}, "clip=inf: want at least 0, and finite"),
        ({"arguments": {"keep": float("inf")}}, "arguments.keep=inf: want finite numbers"),
        ({"arguments": {"a": [1, {"b": float("nan")}]}}, "arguments.a="),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: want at least 0"),
        ({"clip": -1.0}, "clip=-1.0: want at least 0"),
        ({"clip": float("nan")}, "clip=nan: want at least 0"),
        ({"scheduler": "cosin"}, "scheduler='cosin': want one of linear, cosine, "),
        ({"positions": "new"}, "positions='new': want one of original, renumbered"),
        ({"dropped": "lost"}, "dropped='lost': want one of gone, merged"),
        ({"dtype": "bfloat16"}, "weights in bfloat16 without bf16=True"),
        ({"order": "groupd"}, "order='groupd': want one of shuffled, grouped, sequential"),
        ({"template": "chta"}, "template='chta': want one of chat, plain"),
        ({"dtype": "float8"}, "dtype='float8': want one of float32, bfloat16"),
        ({"shrink": 0.0}, "shrink=0.0: want a share in"),
        ({"warmup": 1.0}, "warmup=1.0: want a share"),
        ({"trains": {}}, "trains nothing"),
        ({"trains": {"language": 0.0}}, "trains language at 0.0: want a learning rate > 0"),
        ({"trains": {"lora": 1e-4}}, "trains lora, but lora=None"),
        ({"lora": Lora(4)}, "without a learning rate"),
    ],
)
def test_refusals(changes, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        Recipe(**{"name": "a", "model": "m", "data": "d", "trains": {"language": 1e-3}, **changes})


def test_numbers_may_be_those_of_numpy():
    """They become Python's own, so that the recipe is the same one in JSON."""
    plain = {"batch": 8, "workers": 2, "steps": 5, "seed": 3, "epochs": 2.0, "warmup": 0.5}
    odd = {name: (np.int64 if isinstance(n, int) else np.float32)(n) for name, n in plain.items()}
    want = {"name": "a", "model": "m", "data": "d", "trains": {"language": 0.5}}
    given = {**want, "trains": {"language": np.float32(0.5)}}
    made = Recipe(**given, **odd, arguments={"keep": np.int64(8)})
    assert json.dumps(made.as_dict()) == json.dumps(
        Recipe(**want, **plain, arguments={"keep": 8}).as_dict()
    )


def test_epochs_of_more_steps_than_can_be_counted():
    recipe = replace(RECIPES["patchqa"](), batch=1, micro_batch=1, steps=None, epochs=10_000.0)
    assert steps_of(recipe, [None] * 10) == 100_000
    with pytest.raises(ValueError, match=r"10,000,000,000 steps, want at most 2,147,483,647"):
        steps_of(recipe, range(1_000_000))


def test_accumulation_is_whole():
    recipe = replace(RECIPES["patchqa"](), batch=24, micro_batch=4)
    assert [recipe.accumulate(world) for world in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(ValueError, match="batch=24 is no multiple of micro_batch=4 × 4 devices"):
        recipe.accumulate(4)
