"""The algebra of tokens: three invariants, on random plans."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import VisualTokens
from foveate.core.joined import joined
from foveate.core.ops import budget, check_keep, spread, top

settings.register_profile("foveate", deadline=None, derandomize=True)
settings.load_profile("foveate")


def check(tokens: VisualTokens):
    """At most one owner per patch; valid tokens own something; valid first, in order of first patch."""
    x, owner, valid = tokens.x, tokens.owner, tokens.valid
    N = x.shape[1]
    assert valid.shape == x.shape[:2] and owner.shape[0] == x.shape[0]
    assert ((owner >= -2) & (owner < N)).all()
    for row in range(len(x)):
        count = int(valid[row].sum())
        assert valid[row, :count].all(), "padding stands behind"
        firsts = [
            int((owner[row] == t).nonzero()[0]) for t in range(count)
        ]  # raises if one owns nothing
        assert firsts == sorted(firsts)
        assert not (owner[row] >= count).any()
        assert tokens.anchor[row, :count].tolist() == firsts
        assert tokens.size[row].sum() == (owner[row] >= 0).sum()
    assert (x[~valid] == 0).all()


@st.composite
def plans(draw):
    """Random tokens of ragged images, and a few random prunings and mergings."""
    B, P = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(1, P), min_size=B, max_size=B))
    lengths[0] = P
    steps = draw(
        st.lists(st.tuples(st.sampled_from(["where", "merge"]), st.integers(0, 999)), max_size=4)
    )
    return lengths, steps


def start(lengths):
    x = torch.randn(len(lengths), max(lengths), 3, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return VisualTokens.of(x * valid[..., None], valid)


def move(tokens, step):
    kind, seed = step
    draw = torch.Generator().manual_seed(seed)
    if kind == "where":
        keep = torch.rand(tokens.valid.shape, generator=draw) < 0.6
        return tokens.where(keep | (torch.arange(keep.shape[1]) == 0))
    M = max(1, tokens.x.shape[1] - seed % 3)
    return tokens.merge(torch.randint(0, M, tokens.valid.shape, generator=draw), M)


@given(plans())
def test_invariants_hold_after_any_plan(plan):
    lengths, steps = plan
    tokens = start(lengths)
    check(tokens)
    for step in steps:
        after = move(tokens, step)
        check(after)
        assert (after.counts <= tokens.counts).all()
        assert after.patches.tolist() == lengths  # whatever has left
        assert ((tokens.owner < 0) <= (after.owner == tokens.owner)).all(), (
            "what is gone stays gone"
        )
        tokens = after


@given(plans())
def test_merged_vectors_are_means_over_their_patches(plan):
    lengths, steps = plan
    first = tokens = start(lengths)
    for step in steps:
        tokens = move(tokens, step)
    for row in range(len(lengths)):
        for t in range(int(tokens.counts[row])):
            mine = tokens.owner[row] == t
            torch.testing.assert_close(
                tokens.x[row, t], first.x[row, mine].mean(0), atol=1e-5, rtol=1e-4
            )
            patch = torch.arange(len(mine)).expand(len(lengths), -1)
            assert tokens.mean(patch)[row, t] == int(mine.nonzero().float().mean().floor())


def test_half_precision_sums_in_float32():
    x = torch.full((1, 512, 1), 1.0, dtype=torch.bfloat16)
    x[0, 0] = 257.0
    merged = VisualTokens.of(x).merge(torch.zeros(1, 512, dtype=torch.long), 1)
    assert merged.x.dtype == torch.bfloat16
    assert merged.x.item() == torch.tensor(768 / 512).bfloat16().item()


def test_gradients_pass_through_pruning_and_merging():
    x = torch.randn(2, 6, 3, requires_grad=True, dtype=torch.double)
    into = torch.tensor([[0, 0, 1, 2, 2, 2]] * 2)

    def run(x):
        keep = torch.tensor([[True, True, False, True, True, True]] * 2)
        return VisualTokens.of(x).merge(into, 3).where(keep[:, :3]).x

    assert torch.autograd.gradcheck(run, x)


@pytest.mark.parametrize(
    "keep", [0, -3, 0.0, 2.0, -0.5, True, False, float("nan"), float("inf"), "0.5", None, 1.0001]
)
def test_budgets_that_mean_nothing(keep):
    with pytest.raises(ValueError, match=r"want an int >= 1 .* float in \(0, 1\]"):
        check_keep(keep)


@given(st.floats(1e-9, 1.0), st.integers(1, 5000))
def test_a_share_is_rounded_half_up_and_never_to_none(share, count):
    n = int(budget(check_keep(share), torch.tensor(count)))
    assert n == min(count, max(1, int(share * count + 0.5)))


@given(st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_an_int_keeps_exactly_so_many_or_all(keep, lengths):
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    score = torch.randn(valid.shape, generator=torch.Generator().manual_seed(1))
    for mask in (top(score, keep, valid), spread(keep, valid)):
        assert mask.sum(1).tolist() == [min(keep, n) for n in lengths]
        assert not (mask & ~valid).any()


def test_top_is_top_and_ties_go_to_the_earlier():
    score = torch.tensor([[1.0, 3.0, 3.0, 2.0, -torch.inf], [torch.nan, 0.0, -torch.inf, 9.0, 9.0]])
    valid = torch.tensor([[True] * 5, [True, True, True, False, False]])
    assert top(score, 2, valid).tolist()[0] == [False, True, True, False, False]
    assert top(score, 1, valid).tolist()[0] == [False, True, False, False, False]
    assert top(score, 3, valid).tolist()[1] == [True, True, True, False, False]


def test_spread_is_even():
    valid = torch.ones(1, 12, dtype=torch.bool)
    assert spread(0.25, valid).nonzero()[:, 1].tolist() == [2, 6, 10]
    assert spread(5, valid).nonzero()[:, 1].tolist() == [1, 3, 6, 8, 10]
    for n in range(1, 13):
        gaps = spread(n, valid)[0].nonzero()[:, 0].diff()
        assert n == 1 or gaps.max() - gaps.min() <= 1


def test_what_is_no_mask_is_told():
    tokens = VisualTokens.of(torch.randn(2, 6, 3))
    for keep in (torch.ones(3, dtype=torch.bool), torch.tensor([[0, 2]] * 2), torch.ones(2, 6)):
        with pytest.raises(ValueError, match=r"where\(\) got .*: want bool \(2, 6\)"):
            tokens.where(keep)
    for into in (torch.zeros(6, dtype=torch.long), torch.zeros(2, 6)):
        with pytest.raises(ValueError, match=r"merge\(\) got .*: want integers \(2, 6\)"):
            tokens.merge(into, 2)


@given(plans())
def test_what_is_dropped_joins_what_is_most_like_it(plan):
    """By hand: the kept token of the largest cosine becomes the mean of all that it carries then."""
    lengths, steps = plan
    came = start(lengths)
    for step in steps:
        came = move(came, step)
    draw = torch.Generator().manual_seed(5)
    keep = (torch.rand(came.valid.shape, generator=draw) < 0.5) & came.valid
    keep[0] = False  # an image of which nothing is left, beside one of which something is
    keep[-1, 0] = True
    got = joined(came, came.where(keep))
    check(got)
    assert joined(came, came) is came
    kept = keep.nonzero().tolist()
    for b, n in kept:
        rivals = came.x[b, keep[b]]
        home = [torch.cosine_similarity(x[None], rivals).argmax() for x in came.x[b]]
        mine = (keep[b].cumsum(0) - 1)[n]
        guests = [
            i for i, h in enumerate(home) if h == mine and came.valid[b, i] and not keep[b, i]
        ]
        weight = came.size[b, [n, *guests]].float()
        want = (came.x[b, [n, *guests]] * weight[:, None]).sum(0) / weight.sum()
        patches = torch.isin(came.owner[b], torch.tensor([n, *guests]))
        (token,) = got.owner[b, patches].unique()
        assert torch.equal(got.owner[b] == token, patches)
        torch.testing.assert_close(got.x[b, token], want)
    assert len(lengths) == 1 or not got.valid[0].any()
