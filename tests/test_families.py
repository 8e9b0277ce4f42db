"""The families themselves, without any compression; that rows stand alone, the contract shows."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, LAYERS, MIXED, ONE, VIDEO

every = pytest.mark.parametrize("name", FAMILIES)


@every
@torch.no_grad()
def test_every_image_is_of_its_size_and_seen(name):
    """In order of appearance; features are counted apart from the prompt."""
    family, model = FAMILIES[name], FAMILIES[name].model()
    inputs = family.inputs(MIXED)
    taken = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    taken = {k: v for k, v in taken.items() if "type" not in k}
    features = model.model.get_image_features(**taken).pooler_output
    stands, images = family.stands(MIXED, inputs["input_ids"]), [p.images for p in MIXED]
    sizes = [len(stand.patches) + len(stand.newlines) for stand in stands]
    if len(features) == len(sizes):
        assert [len(f) for f in features] == sizes
    elif len(features) == len(MIXED):  # one for each prompt
        assert [len(f) for f in features] == [
            int(s.sum()) for s in torch.tensor(sizes).split(images)
        ]
    else:  # one for each tile
        assert [len(f) for f in features] == [family.patches] * (sum(sizes) // family.patches)
    together = model(**inputs).logits[:, -1]
    pixels = next(k for k in inputs if k.startswith("pixel_values"))
    turned = model(**inputs | {pixels: -inputs[pixels]}).logits[:, -1]
    moved = (turned - together).abs()
    assert (moved.amax(1) > 0.01 * together.abs().max()).tolist() == [n > 0 for n in images]


@every
def test_the_model_is_small_and_always_the_same(name):
    family = FAMILIES[name]
    first, second = family.model(), family.model()
    assert family.name == name and not first.training
    assert first.config.get_text_config().num_hidden_layers == family.layers == LAYERS
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert sum(p.numel() for p in first.parameters()) < 500_000
    assert any("class_embed" in n or "cls_token" in n for n, _ in first.named_parameters()) == (
        family.class_token
    )


@every
def test_batches_depend_on_the_seed_alone(name):
    family = FAMILIES[name]
    one, same, other = (family.inputs(MIXED, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["input_ids"], other["input_ids"])
    assert all(one[k].shape == other[k].shape for k in one)


def test_a_video_is_refused_by_name():
    takes_none = [f for f in FAMILIES.values() if not f.takes_video]
    assert len(takes_none) == 6
    for family in takes_none:
        with pytest.raises(ValueError, match=f"{family.name} takes no videos"):
            family.inputs((ONE, VIDEO))
