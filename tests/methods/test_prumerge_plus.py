"""PruMerge+, arXiv:2403.15388; what it does is checked beside PruMerge."""

import torch

from foveate import Context, VisualTokens, prumerge_plus


def test_even_steps_stay_beside_what_stands_out():
    """One of 24 stands out: every 8th stays too, but never the last."""
    attention = torch.full((1, 25), 0.02)
    attention[0, 3] = 0.5
    context = Context(attentions={-1: attention}, keys=torch.eye(25)[None])
    out = prumerge_plus()(VisualTokens.of(torch.eye(25)[None]), context)
    alone = [i for i in range(25) if (out.owner[0] == out.owner[0, i]).sum() == 1]
    assert alone == [0, 3, 8, 16]
    assert out.counts.tolist() == [5]
