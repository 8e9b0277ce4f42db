"""What a front hands an engine: the very vectors that enter the decoder, from a model without its layers."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from families import FAMILIES, ONE, SHORT, TEXT, TWO

import foveate
from foveate import CDPruner, DivPrune, FastV, PruMerge, embedded
from foveate.engines.vllm.command import SOCKET, behind, linked
from foveate.engines.vllm.served import check_front
from foveate.hosts import entering, files, reading, traits
from foveate.registry import loading

MAKE = {
    "divprune": lambda: DivPrune(keep=6),
    "cdpruner": lambda: CDPruner(keep=5),
    "prumerge": lambda: PruMerge(projected=True),
}
# Whose decoder is told more than a prompt's vectors.
MORE = {
    "qwen3_vl": "hands its decoder deepstack_visual_embeds",
    "gemma3": "look at those behind them",
    "paligemma": "look at those behind them",
}


def beheaded(model, folder):
    """The same model, read again without its decoder layers."""
    model.save_pretrained(folder)
    config = reading.headless(folder, reading.config(folder))
    return reading.model(folder, config=config, dtype=torch.float32).eval()


def entered(model, batch):
    """What enters the decoder of a whole model, and its padding."""
    seen = {}
    decoder = traits.decoder_of(model.model)
    note = decoder.register_forward_pre_hook(
        lambda _, args, given: seen.update(given), with_kwargs=True
    )
    with torch.inference_mode():
        model(**batch)
    note.remove()
    mask = seen["attention_mask"]
    x = seen["inputs_embeds"]
    return [
        row[real]
        for row, real in zip(
            x, (mask if mask is not None else x[..., 0] * 0 + 1).bool(), strict=True
        )
    ]


@pytest.mark.parametrize("method", MAKE)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in MORE])
def test_the_vectors_are_those_of_the_whole_model(name, method, tmp_path):
    family = FAMILIES[name]
    model = family.model().eval()
    less = beheaded(model, tmp_path)
    assert not traits.decoder_of(less.model).layers
    batch = family.inputs((ONE, TWO, SHORT))
    for one in (model, less):
        foveate.compress(one, MAKE[method](), positions="renumbered")
    mine = entering.prompts(less, **batch)
    for a, b in zip(mine, entered(model, batch), strict=True):
        assert torch.equal(a, b)
    assert len(mine[0]) < int(batch["attention_mask"][0].sum())


@pytest.mark.parametrize("name", MORE)
def test_a_decoder_that_is_told_more_is_refused(name):
    family = FAMILIES[name]
    model = foveate.compress(family.model().eval(), DivPrune(keep=6), positions="renumbered")
    with pytest.raises(ValueError, match=MORE[name]):
        entering.prompts(model, **family.inputs((ONE,)))


def test_positions_of_their_own_are_refused_and_none_is_renumbered_in_silence():
    llava, qwen = (FAMILIES[name].model().eval() for name in ("llava", "qwen2_5_vl"))
    batch = FAMILIES["llava"].inputs((ONE, TEXT))
    assert [len(x) for x in entering.prompts(llava, **batch)] == batch["attention_mask"].sum(
        1
    ).tolist()
    foveate.compress(llava, DivPrune(keep=6))
    with pytest.raises(ValueError, match="--positions renumbered"):
        entering.prompts(llava, **batch)
    with pytest.raises(ValueError, match="whole image in three dimensions"):
        entering.prompts(qwen, **FAMILIES["qwen2_5_vl"].inputs((ONE,)))
    foveate.compress(llava, DivPrune(keep=6), positions="renumbered", attention="proportional")
    with pytest.raises(ValueError, match="a mask in every layer"):
        entering.prompts(llava, **batch)
    foveate.compress(llava, FastV(keep=6), positions="renumbered")
    with pytest.raises(ValueError, match="FastV acts before decoder layer 2"):
        entering.prompts(llava, **batch)


def test_a_model_is_read_without_its_layers_and_says_nothing_of_them(recwarn):
    path = str(embedded.MODELS["embedded-fovea"])
    less, _ = loading.read(path, headless=True)
    whole, _ = loading.read(path)
    sizes = [sum(p.numel() for p in model.model.parameters()) for model in (less, whole)]
    layers = sum(p.numel() for p in traits.decoder_of(whole.model).layers.parameters())
    assert sizes[0] == sizes[1] - layers
    assert [str(one.message) for one in recwarn if "no part of the model" in str(one.message)] == []


def test_what_no_front_can_serve_is_refused_before_anything_is_loaded():
    fovea, plain = (reading.config(embedded.MODELS[n]) for n in ("embedded-fovea", "embedded"))
    check_front(fovea, None, "renumbered")
    check_front(plain, CDPruner(keep=9), "renumbered")
    for config, method, positions, why in (
        (fovea, None, None, "say --positions renumbered"),
        (plain, CDPruner(keep=9), "original", "say --positions renumbered"),
        (plain, FastV(keep=9), "renumbered", "`foveate serve` has it, without --engine vllm"),
    ):
        with pytest.raises(ValueError, match=why):
            check_front(config, method, positions)


def test_vllm_behind_is_nobodys_but_the_fronts(tmp_path):
    words = behind(str(embedded.PATH), tmp_path, ["--dtype", "float32"])
    told = dict(pairwise(words))
    assert told["--model"] == str(embedded.PATH) and told["--uds"] == str(tmp_path / SOCKET)
    assert json.loads(told["--hf-overrides"]) == {"visual_compression": None}
    assert {"--enable-prompt-embeds", "--language-model-only"} < {*words}
    assert "--port" not in words and words[-2:] == ["--dtype", "float32"]


def test_weights_in_other_folders_are_linked(tmp_path):
    source = embedded.MODELS["embedded-fovea"]
    made = linked(str(source), tmp_path)
    index = files.read_object(tmp_path / "model" / files.INDEX)["weight_map"]
    assert all((tmp_path / "model" / part).is_file() and "/" not in part for part in index.values())
    again, whole = reading.model(made), reading.model(source)
    for (name, a), b in zip(again.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert linked(str(embedded.PATH), tmp_path) == str(embedded.PATH)
