"""DivPrune, arXiv:2503.02175."""

import torch

from foveate import Context, DivPrune, VisualTokens


def greedy(x, n):
    """Max-min diversity, written out."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    far = 1 - unit @ unit.T
    nearest = far.clone().fill_diagonal_(torch.inf).amin(1)
    taken = [int(nearest.argmax())]
    while len(taken) < n:
        distance = far[:, taken].amin(1)
        distance[taken] = -torch.inf
        taken.append(int(distance.argmax()))
    return sorted(taken)


def test_it_is_the_greedy_max_min_choice():
    torch.manual_seed(0)
    x = torch.randn(3, 40, 6)
    for n in (1, 2, 7, 39, 40):
        out = DivPrune(n)(VisualTokens.of(x), Context())
        for row in range(3):
            assert (out.owner[row] >= 0).nonzero()[:, 0].tolist() == greedy(x[row], n)


def test_twins_are_not_both_taken():
    x = torch.eye(4).repeat_interleave(3, 0)[None]
    out = DivPrune(4)(VisualTokens.of(x), Context())
    assert sorted(((out.owner[0] >= 0).nonzero()[:, 0] // 3).tolist()) == [0, 1, 2, 3]
