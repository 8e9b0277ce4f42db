"""PruMerge, arXiv:2403.15388."""

import numpy as np
import pytest
import torch
from methods_by_hand import looked_at, ragged

from foveate import Context, PruMerge, VisualTokens, prumerge_plus


def outlying(attention):
    """How many stand out."""
    low, high = np.percentile(attention.double().numpy(), [25, 75])
    return max(1, int((attention.double() > high + 1.5 * (high - low)).sum()))


def chosen(attention, keep, spatial):
    """The kept ones, and whether there is a token for the rest."""
    N = len(attention)
    if keep is None:
        n = outlying(attention)
        found = {*looked_at(attention, n)}
        step = max(1, N // n // 3)
        return sorted(found | ({*range(0, N - 1, step)} if spatial else set())), True
    n = min(keep, N)
    gathers = 1 < n < N
    n -= gathers
    even = n // 2 if spatial else 0
    found = looked_at(attention, n - even)
    rest = [i for i in range(N) if i not in found]
    return sorted(found + (rest[:: len(rest) // even][:even] if even else [])), gathers


def check(out, b, x, attention, keys, keep, spatial):
    """One image of the result, token by token."""
    N = len(x)
    kept, gathers = chosen(attention, keep, spatial)
    rest = [i for i in range(N) if i not in kept]
    unit = torch.nn.functional.normalize(keys, dim=-1)
    assert int(out.counts[b]) == len(kept) + bool(gathers and rest)
    for i in kept:
        near = sorted((j for j in range(N) if j != i), key=lambda j: -float(unit[i] @ unit[j]))[:32]
        want = x[i] + sum(attention[j] * x[j] for j in near) if rest else x[i]
        assert (out.owner[b] == out.owner[b, i]).sum() == 1
        torch.testing.assert_close(out.x[b, out.owner[b, i]], want)
    if not gathers:
        assert (out.owner[b, rest] == -1).all()
    elif rest:
        assert len({*out.owner[b, rest].tolist()}) == 1 and out.owner[b, rest[0]] >= 0
        want = sum(attention[j] * x[j] for j in rest)
        torch.testing.assert_close(out.x[b, out.owner[b, rest[0]]], want)


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("keep", [None, 1, 2, 9, 49, 50])
def test_kept_ones_take_in_what_is_alike_and_the_rest_is_one(keep, spatial):
    lengths = [50, 37, 4]
    tokens, attention = ragged(lengths)
    attention = attention**6  # so that some stand out
    keys = ragged(lengths, seed=1)[0].x
    method = PruMerge(keep, spatial)
    out = method(tokens, Context(attentions={-1: attention}, keys=keys))
    for b, n in enumerate(lengths):
        check(out, b, tokens.x[b, :n], attention[b, :n], keys[b, :n], keep, spatial)


def test_two_stand_out_of_ten():
    """Quartiles 1 and 1: whatever is above 1 stands out. The others are one token, the third."""
    attention = torch.tensor([[1.0, 5.0, 1, 1, 1, 1, 3.0, 1, 1, 1]]) / 15
    tokens = VisualTokens.of(torch.eye(10)[None])
    out = PruMerge()(tokens, Context(attentions={-1: attention}, keys=torch.eye(10)[None]))
    assert out.owner.tolist() == [[0, 1, 0, 0, 0, 0, 2, 0, 0, 0]]
    rest = [float(i not in (1, 6)) / 15 for i in range(10)]
    torch.testing.assert_close(out.x[0, 0], torch.tensor(rest))


def test_plus_is_its_spatial_form():
    assert repr(prumerge_plus(7)) == repr(PruMerge(7, spatial=True))
    assert PruMerge().vision_blocks == (-1,)
    with pytest.raises(ValueError, match="spatial='yes'"):
        PruMerge(4, spatial="yes")
