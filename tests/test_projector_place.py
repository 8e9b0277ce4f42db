"""Before the projector and in its place: what stands there reads what the projector reads, family by family."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from families import FAMILIES, ONE, TWO
from torch import nn

import foveate
from foveate import VisionZip
from foveate.hosts import traits

PLACED = sorted(name for name, family in FAMILIES.items() if family.projected is not None)


@pytest.mark.parametrize("name", PLACED)
def test_a_connector_taken_apart_is_the_connector(name):
    """Bit for bit; and the linear layers of the projector are found in it, whose weights are the model's."""
    base = FAMILIES[name].model().model
    for module in base.modules():
        if "RMSNorm" in type(module).__name__:
            nn.init.normal_(module.weight)
    calls = []
    connector = traits.connector_of(base)
    connector.register_forward_hook(lambda m, given, made: calls.append((given, made)))
    inputs = FAMILIES[name].inputs((ONE, TWO))
    with torch.no_grad():
        base(**inputs)
        (given, made), (projector, before) = calls[0], traits.projector_of(base)
        read = before(*given)
        assert torch.equal(projector(read), made)
    assert read.shape[-1] == FAMILIES[name].projected
    linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
    assert linear[0].in_features == read.shape[-1]
    assert linear[-1].out_features == len(linear[-1].weight) == made.shape[-1]
    projector(read).sum().backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in connector.parameters()) >= len(
        linear
    )


def test_a_bare_matrix_is_at_hand_where_weights_are_offloaded():
    """Gemma 3's projector is a parameter of its connector, which does not run when tokens went early."""
    family = FAMILIES["gemma3"]
    inputs, model = family.inputs((ONE, TWO)), foveate.compress(family.model(), VisionZip(5))
    away = foveate.compress(cpu_offload(family.model()), VisionZip(5))
    assert away.model.multi_modal_projector.mm_input_projection_weight.is_meta
    with torch.no_grad():
        assert torch.equal(away(**inputs).logits, model(**inputs).logits)
    assert away.model.multi_modal_projector.mm_input_projection_weight.is_meta
