"""VisPruner, arXiv:2412.01818."""

import pytest
import torch
from methods_by_hand import kept, looked_at, ragged
from probes import views

from foveate import Context, VisPruner, VisualTokens


def diverse(x, attention, rest, n):
    """The rounds, token by token."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    order = sorted(rest, key=lambda i: (-float(attention[i]), i))
    while len(order) > n:
        even, odd = order[::2], order[1::2]
        like = {i: max((float(unit[i] @ unit[j]) for j in odd), default=-2) for i in even}
        even = sorted(even, key=lambda i: -like[i])
        order = even[min(8, len(order) - n) :] + odd
    return order


@pytest.mark.parametrize("important", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 4, 11, 49, 50])
def test_half_by_attention_and_half_by_rounds(n, important):
    """Of even and odd numbers of tokens; an image that has fewer keeps all."""
    lengths = [50, 31, 3]
    tokens, attention = ragged(lengths)
    out = VisPruner(n, important)(tokens, Context(cls_attention=attention))
    assert out.counts.tolist() == [min(n, length) for length in lengths]
    for b, length in enumerate(lengths):
        m = min(n, length)
        first = looked_at(attention[b, :length], int(m * important))
        rest = [i for i in range(length) if i not in first]
        others = diverse(tokens.x[b], attention[b], rest, m - len(first))
        assert kept(out, b) == sorted(first + others)


def test_twins_leave_first():
    """Six directions twice and nothing important: by attention, twins stand side by side."""
    x = torch.eye(6).repeat_interleave(2, 0)[None]
    attention = torch.arange(12, 0, -1.0)[None]
    out = VisPruner(6, important=0.0)(VisualTokens.of(x), Context(cls_attention=attention))
    assert kept(out) == [1, 3, 5, 7, 9, 11]


def test_every_view_by_itself():
    tokens, attention = ragged([18])
    grid = views((3, 4), (2, 3))
    context = Context(cls_attention=attention, grid=grid)
    out = VisPruner(4, per_view=True)(tokens, context)
    alone = [
        kept(VisPruner(4)(VisualTokens.of(tokens.x[:, s]), Context(cls_attention=attention[:, s])))
        for s in (slice(0, 12), slice(12, 18))
    ]
    assert kept(out) == alone[0] + [12 + i for i in alone[1]]


def test_the_share_is_checked():
    with pytest.raises(ValueError, match=r"important=1\.5"):
        VisPruner(4, important=1.5)
