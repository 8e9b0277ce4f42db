"""Even steps, a baseline: no paper."""

import torch

from foveate import Context, Stride, VisualTokens


def test_every_fourth_from_the_middle_of_its_run():
    out = Stride(0.25)(VisualTokens.of(torch.arange(16.0).reshape(1, 16, 1)), Context())
    assert out.x[0, :, 0].tolist() == [2.0, 6.0, 10.0, 14.0]
