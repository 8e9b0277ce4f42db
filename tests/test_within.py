"""Inside the vision tower: what leaves there is gone for every later block, and for the model behind.

Dropping is hiding, as in the contract: the bare tower runs with masks, and the bare language model with the
dropped columns away. What merges, tests/methods/test_tome.py follows step by step.
"""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from calling import close, fingerprint, greedy, last_words, logits, traced
from families import FAMILIES, MIXED, ONE, VIDEO_AND_IMAGE
from probes import Looks, Replay

import foveate
from foveate import (
    Chain,
    Compressor,
    DivPrune,
    FastV,
    LLaVASTF,
    Site,
    Stages,
    ToMe,
    Tower,
    VisionZip,
    sized,
    tome,
)
from foveate.hosts import traits

THINNING = sorted(name for name, family in FAMILIES.items() if family.thins)
OTHERS = sorted(FAMILIES.keys() - {*THINNING, "llava_onevision"})


class Thins(Compressor):
    """Drops every third patch of a view before a block of the tower; by keys, the longest of them."""

    selects = True

    def __init__(self, layer: int, by_keys: bool = False, needs=()):
        super().__init__()
        self.site = Site(Tower.vision, layer)
        self.needs = frozenset({"keys"} if by_keys else needs)

    def forward(self, tokens, context):
        if context.keys is None:
            return tokens.where(tokens.anchor % 3 != self.site.layer)
        size = context.keys.norm(dim=-1) * tokens.valid
        return tokens.where(size > size.sum(1, keepdim=True) / tokens.counts[:, None])

    def arguments(self):
        return {"layer": self.site.layer, "by_keys": "keys" in self.needs}


@contextmanager
def hiding(model, layers):
    """The bare towers, in which no block from each of these layers on sees the patches that left there."""
    handles = []
    for tower in traits.towers_of(model.model):
        C = int(traits.has_class_token(model.model, tower))
        for i, block in enumerate(traits.tower_blocks(model.model, tower)):
            gone = [layer for layer in layers if layer <= i]

            def hide(block, args, kwargs, gone=gone, C=C):
                patch = torch.arange(args[0].shape[1] - C)
                hidden = sum((patch % 3 == layer for layer in gone), torch.zeros(len(patch)).bool())
                hidden = torch.nn.functional.pad(hidden, (C, 0))
                mask = torch.zeros(len(hidden)).masked_fill(hidden, torch.finfo(torch.float).min)
                return (args[0], mask[None, None, None].expand(1, 1, len(hidden), -1)), kwargs

            handles.append(block.register_forward_pre_hook(hide, with_kwargs=True))
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("name", THINNING)
@torch.no_grad()
def test_dropping_in_the_tower_is_hiding(name, layers, attention):
    """Tiles, newlines, frames with their class tokens, two towers; several cuts at once."""
    family = FAMILIES[name]
    model = family.model(attention)
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        with foveate.compressed(model, Chain(*map(Thins, layers))):
            got, steps = traced(model, inputs)
        assert [step.site for step in steps] == [Site(Tower.vision, layer) for layer in layers]
        for before, after in pairwise(steps):
            assert torch.equal(after.before, before.after)
        assert (steps[-1].after < steps[0].before).all()
        replay = Replay(Site(Tower.features), steps[-1].owner)
        with hiding(model, layers), foveate.compressed(model, replay):
            want = logits(model, inputs)
        close(got.logits, want)


@pytest.mark.parametrize("cuts", [1, 3])
@pytest.mark.parametrize("name", THINNING)
@torch.no_grad()
def test_rows_may_keep_unequal_numbers(name, cuts):
    """Padding in the tower is seen by nobody: each view is as it is alone. Two cuts share a block's keys."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs((ONE, ONE))
    foveate.compress(model, Chain(*(Thins(layer, by_keys=True) for layer in (1, 1, 2)[:cuts])))
    together, steps = traced(model, inputs)
    assert any(len(set(step.after.tolist())) == 2 for step in steps)
    for i in range(2):
        alone = logits(model, family.single(inputs, (ONE, ONE), i))
        close(together.logits[i, inputs["attention_mask"][i].bool()], alone[0], 2e-5)


@pytest.mark.parametrize("name", THINNING)
def test_keeping_all_is_the_model_untouched(name):
    family = FAMILIES[name]
    model = family.model()
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        want, text = logits(model, inputs), greedy(model, inputs, 3)
        before = fingerprint(model)
        with foveate.compressed(model, sized(tome, model, keep=1.0)):
            assert torch.equal(logits(model, inputs), want)
            assert torch.equal(greedy(model, inputs, 3), text)
        assert fingerprint(model) == before


@pytest.mark.parametrize("name", ["llava", "llava_next", "video_llava"])
@torch.no_grad()
def test_the_tower_itself_is_shorter(name):
    """And what it hands on is not; methods behind it, in the language model too, see what is left."""
    family, seen = FAMILIES[name], []
    model = family.model()
    for block in traits.tower_blocks(model.model):
        block.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    inputs = family.inputs((ONE,))
    foveate.compress(model, Chain(sized(tome, model, keep=8), DivPrune(6), FastV(3, layer=2)))
    _, steps = traced(model, inputs)
    assert seen == [17, 13, 9, 9]
    pixels = {n: v for n, v in inputs.items() if "pixel" in n or n == "image_sizes"}
    states, bare = (
        m.model.get_image_features(**pixels, output_hidden_states=True).hidden_states
        for m in (model, family.model())
    )
    assert {state.shape[1] for state in states} == {17}
    assert all(torch.equal(state, same) for state, same in zip(states[:2], bare, strict=False))
    assert steps[-1].after.tolist() == foveate.last_counts(model) == [3]
    budgets = "every view, such as a tile or a frame, has the whole budget"
    assert (budgets in str(foveate.support(model, ToMe()))) is (name != "llava")


@pytest.mark.parametrize("frozen", [False, True])
def test_it_learns_and_checkpoints_change_no_gradient(frozen):
    family, found = FAMILIES["llava"], []
    for checkpointing in (False, True):
        model = family.model().train()
        inputs = family.inputs((ONE, ONE))
        foveate.compress(model, sized(tome, model, keep=8))
        if frozen:
            model.model.vision_tower.requires_grad_(False)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**inputs, labels=last_words(inputs)).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("vision_tower" in name for name in found[0]) is not frozen
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad)


def test_a_gradient_through_a_merged_token_is_that_of_its_loss():
    """By small steps of one weight of the first block, and what the projector reads."""
    family, looks = FAMILIES["llava"], Looks(Site(Tower.features), ())
    model, inputs = family.model().double(), family.inputs((ONE,))
    inputs["pixel_values"] = inputs["pixel_values"].double()
    foveate.compress(model, Chain(sized(tome, model, keep=8), looks))
    weight = traits.tower_blocks(model.model)[0].mlp.fc1.bias

    def loss():
        model(**inputs)
        return looks.seen[-1][0].x.square().mean()

    loss().backward()
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            weight[3] += step
            values.append(float(loss()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(weight.grad[3]), rel=1e-4)


# What is refused


@pytest.mark.parametrize("name", OTHERS)
def test_towers_whose_tokens_are_no_patches(name):
    with pytest.raises(NotImplementedError, match=r"ToMe at vision 1: .*language 0"):
        foveate.compress(FAMILIES[name].model(), ToMe())


def test_images_that_are_interpolated_behind_the_projector():
    family = FAMILIES["llava_onevision"]
    model = family.model()
    foveate.compress(model, sized(tome, model, keep=8))
    with pytest.raises(NotImplementedError, match="interpolates behind its projector"):
        model(**family.inputs((VIDEO_AND_IMAGE,)))


REFUSED = {
    "reads cls_attention of the vision tower, where ToMe acts": lambda: Chain(ToMe(), VisionZip(4)),
    "reads features": lambda: Chain(ToMe(), sized(LLaVASTF, FAMILIES["llava"].config())),
    "the features leave the tower behind block 2": lambda: ToMe(layer=3),
    "needs \\['cls_attention'\\]: in the tower, keys": lambda: Thins(1, needs=["cls_attention"]),
    "layer >= 1": lambda: Thins(0, by_keys=True),
    "VisionZip reads": lambda: Stages((0.5, ToMe()), (1.0, VisionZip(4))),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_tower_cannot_do(why):
    model = FAMILIES["llava"].model()
    with pytest.raises((NotImplementedError, ValueError), match=why):
        foveate.compress(model, REFUSED[why]())


def test_kernels_without_a_bias():
    model = FAMILIES["llava"].model()
    foveate.compress(model, Thins(0))
    model.model.vision_tower.config._attn_implementation = "flex_attention"
    with pytest.raises(NotImplementedError, match="flex_attention cannot weigh tokens"):
        model(**FAMILIES["llava"].inputs((ONE,)))
    with pytest.raises(NotImplementedError, match='attn_implementation="sdpa"'):
        foveate.compress(model, ToMe())


def test_images_that_were_encoded_for_another_method():
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs(MIXED)
    foveate.compress(model, ToMe(0.5))
    encoded = model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    foveate.compress(model, ToMe(0.75))
    with pytest.raises(ValueError, match="another method was attached"):
        model(**inputs, mm_encoder_outputs={"image": encoded})


class Costs(Thins):
    """Adds a penalty."""

    def forward(self, tokens, context):
        out = super().forward(tokens, context)
        return type(out)(out.x, out.owner, out.valid, out.x.mean())


def test_a_penalty_does_not_leave_the_tower():
    family = FAMILIES["llava"]
    model = family.model()
    foveate.compress(model, Costs(1))
    with pytest.raises(NotImplementedError, match="Costs adds a penalty"):
        model(**family.inputs((ONE,)))


def test_a_copy_and_a_pickle_act_alike():
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs(MIXED)
    foveate.compress(model, sized(tome, model, keep=8))
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]  # transformers' hooks do not
    want = logits(model, inputs)
    assert all(torch.equal(logits(other, inputs), want) for other in others)
