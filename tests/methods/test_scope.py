"""SCOPE, arXiv:2510.24214."""

import pytest
import torch
from methods_by_hand import kept, ragged

from foveate import SCOPE, Context, VisualTokens


def greedy(x, attention, n, saliency):
    """Saliency times coverage, written out."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    alike, N = (unit @ unit.T).tolist(), len(x)
    covered, taken = [0.0] * N, []
    while len(taken) < n:
        gain = {
            j: sum(max(0.0, alike[i][j] - covered[i]) for i in range(N))
            * float(attention[j]) ** saliency
            for j in range(N)
            if j not in taken
        }
        best = max(gain, key=lambda j: (gain[j], -j))
        covered = [max(m, c) for m, c in zip(covered, alike[best], strict=True)]
        taken.append(best)
    return sorted(taken)


@pytest.mark.parametrize("saliency", [0.0, 1.0, 2.5])
def test_it_is_the_greedy_choice(saliency):
    lengths = [24, 15, 2]
    tokens, attention = ragged(lengths)
    for n in (1, 2, 9, 24):
        out = SCOPE(n, saliency)(tokens, Context(cls_attention=attention))
        for b, length in enumerate(lengths):
            x, a = tokens.x[b, :length], attention[b, :length]
            assert kept(out, b) == greedy(x, a, min(n, length), saliency)


def test_what_is_covered_gains_nothing():
    """Three directions, one of them four times and most looked at: each is taken once first."""
    x = torch.eye(3)[[0, 0, 0, 0, 1, 2]][None]
    attention = torch.tensor([[0.2, 0.3, 0.2, 0.2, 0.05, 0.05]])
    out = SCOPE(3)(VisualTokens.of(x), Context(cls_attention=attention))
    assert kept(out) == [1, 4, 5]
    with pytest.raises(ValueError, match="saliency=-1"):
        SCOPE(3, saliency=-1)
