"""k-means, a baseline of LLaVolta's paper, arXiv:2406.20092."""

import pytest
import torch

from foveate import Context, KMeans, VisualTokens


def one_iteration(x, k):
    """Every S-th token as a centre, L1 distance, one iteration: written out. x (N, D)."""
    centres = x[:: len(x) // k]
    nearest = [min(range(k), key=lambda j: float((token - centres[j]).abs().sum())) for token in x]
    members = [[i for i, j in enumerate(nearest) if j == centre] for centre in range(k)]
    return sorted((own, x[own].mean(0)) for own in members)


def test_a_case_by_hand():
    """Of six tokens for two, 0 and 3 are centres: 0, 1 and 5 are nearer to 0."""
    x = torch.tensor([[0.0, 1.0, 7.0, 8.0, 9.0, 2.0]])[..., None]
    out = KMeans(2)(VisualTokens.of(x), Context())
    assert out.owner.tolist() == [[0, 0, 1, 1, 1, 0]]
    assert out.x[0, :, 0].tolist() == [1.0, 8.0]


@pytest.mark.parametrize("k", [1, 4, 6, 12, 24])
def test_hard_means_are_the_formula(k):
    torch.manual_seed(k)
    x = torch.randn(3, 24, 5)
    out = KMeans(k)(VisualTokens.of(x), Context())
    for row in range(3):
        for place, (members, mean) in enumerate(one_iteration(x[row], k)):
            assert (out.owner[row] == place).nonzero()[:, 0].tolist() == members
            torch.testing.assert_close(out.x[row, place], mean)


def test_soft_means_are_the_formula():
    torch.manual_seed(0)
    x, k, temperature = torch.randn(12, 5, dtype=torch.float64), 3, 0.3
    out = KMeans(k, soft=True, temperature=temperature)(VisualTokens.of(x[None]), Context())
    far = (x[:, None] - x[None, ::4]).abs().sum(-1)
    share = torch.softmax(-far / (temperature * far.mean()), dim=1)
    means = torch.stack([(share[:, j, None] * x).sum(0) / share[:, j].sum() for j in range(k)])
    assert torch.equal(out.owner[0] // 1, relabelled(share.argmax(1)))
    order = share.argmax(1).unique(sorted=False).tolist()
    first = sorted(order, key=lambda j: int((share.argmax(1) == j).nonzero()[0]))
    torch.testing.assert_close(out.x[0], means[first])


def relabelled(names):
    """Names by first appearance: 0, 1, …"""
    seen = list(dict.fromkeys(names.tolist()))
    return torch.tensor([seen.index(n) for n in names.tolist()])


@pytest.mark.parametrize("soft", [False, True])
def test_twins_do_not_cost_a_centre(soft):
    """All tokens alike: every centre stays, every other token joins the first."""
    out = KMeans(4, soft=soft)(VisualTokens.of(torch.ones(2, 16, 3)), Context())
    assert out.counts.tolist() == [4, 4] and torch.equal(out.x, torch.ones(2, 4, 3))
    assert out.size[0].tolist() == [13, 1, 1, 1]


@pytest.mark.parametrize("soft", [False, True])
def test_tokens_count_by_their_size(soft):
    """One that carries three patches weighs like three tokens."""
    x = torch.tensor([[1.0, 1.0, 1.0, 5.0]])[..., None]
    merged = VisualTokens.of(x).merge(torch.tensor([[0, 0, 0, 1]]), 2)
    out = KMeans(1, soft=soft)(merged, Context())
    assert out.x.flatten().tolist() == [2.0]


@pytest.mark.parametrize("soft", [False, True])
def test_sums_of_half_precision_do_not_overflow(soft):
    """576 tokens of 200 sum to more than float16 holds, and so do distances over 4096 channels."""
    x = torch.full((1, 576, 4096), 200.0, dtype=torch.float16)
    x[:, ::2] = -200.0
    out = KMeans(2, soft=soft)(VisualTokens.of(x), Context())
    assert torch.isfinite(out.x).all() and out.x.abs().max() <= 200


def test_soft_means_do_not_keep_all_as_it_is():
    assert KMeans(1.0).selects and not KMeans(1.0, soft=True).selects
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature="):
            KMeans(temperature=wrong)


@pytest.mark.parametrize("lengths", [[20, 1], [20, 6]])
def test_padding_far_from_tokens_alike(lengths):
    """Tokens without a distance between them: padding is infinitely far in their units."""
    torch.manual_seed(2)
    x = torch.randn(2, 20, 4)
    x[1, : lengths[1]] = 1.0
    x.requires_grad_()
    valid = torch.arange(20) < torch.tensor(lengths)[:, None]
    out = KMeans(3, soft=True)(VisualTokens.of(x, valid=valid), Context())
    out.x[out.valid].sum().backward()
    assert torch.isfinite(out.x).all() and torch.isfinite(x.grad).all()
    torch.testing.assert_close(out.x[1][out.valid[1]], torch.ones(int(out.counts[1]), 4))
