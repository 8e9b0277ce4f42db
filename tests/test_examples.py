"""The examples run as they stand, only shorter."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import foveate

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_a_compressor_of_ones_own_trains_and_comes_back(tmp_path, capsys):
    example = runpy.run_path(str(EXAMPLES / "train_your_own.py"))
    torch.manual_seed(0)
    model = example["main"](str(tmp_path), steps=4, batch=4, micro_batch=4)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("4 4 loss")]
    patches = model.config.image_seq_length
    assert lines[-1].endswith(f"[{patches // 4}]") and foveate.last_counts(model) == [patches // 4]

    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        trained = stored.get_tensor("model.visual_compressor.gate.weight")
    gate = model.model.visual_compressor.gate
    assert torch.equal(trained, gate.weight)
    torch.manual_seed(0)
    fresh = torch.nn.Linear(gate.in_features, 1).weight
    moved = (trained - fresh).abs().max()
    assert 1e-3 < moved < 4.4e-2  # Adam goes about 1e-2 a step at most
