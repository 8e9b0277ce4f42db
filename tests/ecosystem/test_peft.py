"""PEFT around a compressed model: train, save, load, merge."""

from __future__ import annotations

import pytest
import torch
from calling import greedy, logits
from peft import LoraConfig, PeftModel, get_peft_model
from probes import Ragged
from training import labelled, weights

import foveate

LORA = r".*(language_model|text_model).*\.q_proj"


def adapted(model):
    """The model under a compressor with weights, under LoRA."""
    foveate.compress(model, Ragged())
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=LORA, modules_to_save=["visual_compressor"])
    return get_peft_model(model, config)


def train(model, batch, steps: int = 3) -> list[float]:
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-4)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def test_only_the_adapter_and_the_compressor_learn(model, family):
    batch = labelled(family)
    adapter = adapted(model)
    before = weights(adapter)
    losses = train(adapter, batch)
    after = weights(adapter)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert losses[-1] < losses[0]
    assert moved == {n for n, p in adapter.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "visual_compressor.modules_to_save" in n for n in moved)
    assert any("lora_B" in n for n in moved) and any("gate.weight" in n for n in moved)


def test_an_adapter_is_saved_with_its_compressor(model, family, tmp_path):
    batch = labelled(family)
    adapter = adapted(model)
    untrained = logits(adapter, batch)
    train(adapter, batch)
    want, kept = logits(adapter, batch), foveate.last_counts(adapter)
    assert not torch.equal(want, untrained)
    adapter.save_pretrained(tmp_path)
    fresh = foveate.compress(family.model(model.config._attn_implementation), Ragged())
    back = PeftModel.from_pretrained(fresh, tmp_path).eval()
    assert torch.equal(logits(back, batch), want)
    assert foveate.last_counts(back) == kept


def test_merged_into_the_model_it_is_a_model_with_a_compressor(model, family):
    batch = labelled(family)
    adapter = adapted(model)
    train(adapter, batch)
    want = logits(adapter, batch)
    gate_of = {n: p for n, p in adapter.named_parameters() if "modules_to_save" in n}
    merged = adapter.merge_and_unload()
    assert merged is model and foveate.is_compressed(merged)
    torch.testing.assert_close(logits(merged, batch), want, atol=2e-5, rtol=1e-4)
    trained = dict(merged.model.visual_compressor.named_parameters())
    assert len(trained) == len(gate_of) == 2
    assert all(torch.equal(trained[f"gate.{n.rpartition('.')[2]}"], p) for n, p in gate_of.items())
    foveate.restore(merged)
    bare = family.model(model.config._attn_implementation)
    assert merged.state_dict().keys() == bare.state_dict().keys()
    changed = {
        n for n, p in bare.state_dict().items() if not torch.equal(p, merged.state_dict()[n])
    }
    assert changed and all(".q_proj." in n for n in changed)


def test_switched_off_the_adapter_leaves_the_compression(model, family):
    """`disable_adapter` is how preference training asks for the reference model's opinion."""
    batch = labelled(family)
    adapter = adapted(model)
    untrained = logits(adapter, batch)
    train(adapter, batch)
    with adapter.disable_adapter():
        assert torch.equal(logits(adapter, batch), untrained)
    assert not torch.equal(logits(adapter, batch), untrained)


@pytest.mark.slow
def test_generating_through_the_adapter_is_generating(model, family):
    batch = labelled(family)
    adapter = adapted(model)
    train(adapter, batch)
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    got, want = greedy(adapter, inputs, 4), greedy(adapter.get_base_model(), inputs, 4)
    assert torch.equal(got, want) and got.shape[1] == inputs["input_ids"].shape[1] + 4
