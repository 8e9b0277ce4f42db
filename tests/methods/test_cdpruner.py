"""CDPruner, arXiv:2506.10967."""

import torch

from foveate import CDPruner, Context, VisualTokens
from foveate.methods.cdpruner import widest


def longest(x, n):
    """The greedy set of largest determinant, each determinant from scratch."""
    kernel, taken = (x @ x.T).double(), []
    for _ in range(n):
        scores = [
            -1.0 if i in taken else float(torch.linalg.det(kernel[[*taken, i]][:, [*taken, i]]))
            for i in range(len(x))
        ]
        taken.append(max(range(len(x)), key=scores.__getitem__))
    return sorted(taken)


def test_the_set_grows_by_what_widens_it_most():
    torch.manual_seed(0)
    x = torch.randn(3, 20, 12)
    for n in (1, 2, 5, 9):
        found = widest(x, torch.full((3, 1), n), torch.ones(3, 20, dtype=torch.bool))
        for row in range(3):
            assert found[row].nonzero()[:, 0].tolist() == longest(x[row], n)


def test_more_tokens_than_dimensions_are_still_all_taken():
    x = torch.randn(2, 9, 3)
    valid = torch.ones(2, 9, dtype=torch.bool)
    assert widest(x, torch.tensor([[7], [4]]), valid).sum(1).tolist() == [7, 4]


def test_relevance_is_away_from_the_words_unless_turned_round():
    """Four equally different tokens: the two that look least like the words stay, or most."""
    tokens = VisualTokens.of(torch.eye(4)[None])
    words = torch.tensor([[[4.0, 2.0, 0.5, 0.1], [9.0, 9.0, 9.0, 9.0]]])
    said = Context(text=words, text_mask=torch.tensor([[True, False]]))
    kept = {side: CDPruner(2, side)(tokens, said).owner[0] for side in ("away", "towards")}
    assert (kept["away"] >= 0).tolist() == [False, False, True, True]
    assert (kept["towards"] >= 0).tolist() == [True, True, False, False]
    relevance = CDPruner(2).scores(tokens, said)[0]
    assert relevance.max() == 1 and 0 < relevance.min() < 1e-3


def test_without_words_diversity_decides_alone():
    x = torch.eye(3).repeat_interleave(2, 0)[None]
    silent = Context(text=torch.zeros(1, 0, 3), text_mask=torch.zeros(1, 0, dtype=torch.bool))
    kept = CDPruner(3)(VisualTokens.of(x), silent).owner[0]
    assert sorted(((kept >= 0).nonzero()[:, 0] // 2).tolist()) == [0, 1, 2]
