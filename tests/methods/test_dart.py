"""DART, arXiv:2502.11494."""

import math

import pytest
import torch

from foveate import DART, Context, VisualTokens


def drawn(lengths, said, seed=0, D=6):
    """Ragged tokens, and words."""
    draw, N, T = torch.Generator().manual_seed(seed), max(lengths), max(*said, 1)
    valid = torch.arange(N) < torch.tensor(lengths)[:, None]
    normed = torch.randn(len(lengths), N, D, generator=draw)
    words = {
        "normed": torch.randn(len(lengths), T, D, generator=draw),
        "key_size": torch.rand(len(lengths), T, generator=draw),
        "mask": torch.arange(T) < torch.tensor(said)[:, None],
    }
    sizes = torch.rand(len(lengths), N, generator=draw)
    tokens = VisualTokens.of(normed * valid[..., None], valid)
    return tokens, Context(normed=normed, key_size=sizes, words=words)


def cosine(a, b):
    return sum(u * v for u, v in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def loop(normed, sizes, words, word_sizes, keep, pivots, texts):
    """The kept tokens of one image, by plain loops."""

    def largest(sizes, n):
        return sorted(range(len(sizes)), key=lambda i: -sizes[i])[:n]

    own = largest(sizes, pivots)
    vectors = [normed[i] for i in own] + [words[i] for i in largest(word_sizes, texts)]
    kept = own[: min(keep, len(own))]
    share = math.ceil((keep - len(kept)) / len(vectors))
    for vector in vectors:
        left = [i for i in range(len(normed)) if i not in kept]
        left.sort(key=lambda i: cosine(vector, normed[i]))
        kept += left[: min(share, keep - len(kept))]
    return sorted(kept)


@pytest.mark.parametrize(("pivots", "texts"), [(4, 4), (2, 1), (3, 0), (10, 5)])
@pytest.mark.parametrize("keep", [1, 3, 9, 20, 33])
def test_ragged_rows_keep_what_a_plain_loop_keeps(keep, pivots, texts):
    lengths, said = [40, 25, 6], [7, 2, 3]
    tokens, context = drawn(lengths, said)
    out = DART(keep, pivots=pivots, words=texts)(tokens, context)
    for row, (n, t) in enumerate(zip(lengths, said, strict=True)):
        want = loop(
            context.normed[row, :n].tolist(),
            context.key_size[row, :n].tolist(),
            context.words["normed"][row, :t].tolist(),
            context.words["key_size"][row, :t].tolist(),
            min(keep, n),
            pivots,
            texts,
        )
        kept = [p for p, owner in enumerate(out.owner[row].tolist()) if owner >= 0]
        assert kept == want and len(kept) == min(keep, n)


def test_a_case_by_hand():
    """The pivot and its opposite stay; its copies are the duplicates that go."""
    normed = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]])
    words = {
        "normed": torch.zeros(1, 1, 2),
        "key_size": torch.zeros(1, 1),
        "mask": torch.zeros(1, 1, dtype=torch.bool),
    }
    sizes = torch.tensor([[1.0, 3.0, 1.0, 1.0, 3.0]])
    context = Context(normed=normed, key_size=sizes, words=words)
    for keep, kept in ((1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3])):
        out = DART(keep, pivots=1)(VisualTokens.of(normed), context)
        assert [p for p, owner in enumerate(out.owner[0].tolist()) if owner >= 0] == kept


def test_wrong_arguments():
    with pytest.raises(ValueError, match="layer >= 1"):
        DART(layer=0)
    for wrong in ({"pivots": 0}, {"words": -1}, {"pivots": 2.5}):
        with pytest.raises(ValueError, match="want an int"):
            DART(**wrong)
