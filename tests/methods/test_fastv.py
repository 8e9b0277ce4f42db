"""FastV, arXiv:2403.06764."""

import pytest
import torch

from foveate import Context, FastV, VisualTokens


def test_it_keeps_what_the_last_row_looks_at_most():
    """Which row that is, and of which layer, test_sight shows."""
    attention = torch.tensor([[0.1, 0.4, 0.0, 0.3, 0.2]])
    tokens = VisualTokens.of(torch.arange(5.0).reshape(1, 5, 1))
    for keep, kept in ((2, [1, 3]), (0.6, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])):
        out = FastV(keep)(tokens, Context(last_attention=attention))
        assert out.x.flatten().tolist() == kept


def test_layer_zero_has_no_layer_before():
    with pytest.raises(ValueError, match="layer >= 1"):
        FastV(layer=0)
