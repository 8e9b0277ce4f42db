"""Fovea's trees on tokens: any budget exactly, small leaves where the weights are, one checkpoint for all."""

from __future__ import annotations

import math

import pytest
import torch
from test_every_method import everything

from foveate import Context, DivPrune, Fovea, Pool, VisualTokens
from foveate.methods.fovea import FLOOR

LEARNED = {"weights": "question", "vector": "mean", "width": 8}


def grid(rows, columns, B=1):
    cells = [(0, r, c) for r in range(rows) for c in range(columns)]
    return torch.tensor([cells] * B)


def flat(rows, columns, B=1, D=8):
    """Tokens that all look alike but for a little noise."""
    draw = torch.Generator().manual_seed(0)
    x = torch.ones(B, rows * columns, D) + 0.01 * torch.randn(B, rows * columns, D, generator=draw)
    return VisualTokens.of(x)


def context(**more):
    return Context(**more)


def learned(**more):
    torch.manual_seed(0)
    return Fovea(**{**LEARNED, **more})


def asked(tokens, context, method):
    return method(tokens, Context(**{name: context[name] for name in method.needs}))


@pytest.mark.parametrize("weights", ["even", "attention", "question"])
@pytest.mark.parametrize("vector", ["outlier", "medoid", "mean"])
def test_every_image_keeps_exactly_its_budget(weights, vector):
    """Ragged images of one batch, whatever splits them."""
    tokens, full = everything([16, 9, 4, 1])
    for keep in (1, 2, 7, 16):
        left = asked(tokens, full, learned(keep=keep, weights=weights, vector=vector))
        assert left.counts.tolist() == [min(keep, n) for n in (16, 9, 4, 1)]
        assert (left.owner != -1).all()  # nothing is dropped


def test_a_smaller_budget_lies_inside_a_larger_one():
    tokens, full = everything([16, 9])
    fine, coarse = (asked(tokens, full, learned(keep=k)).owner for k in (9, 4))
    for few, many in zip(coarse, fine, strict=True):
        pairs = torch.stack([many, few], 1)[many >= 0]
        assert len(pairs.unique(dim=0)) == len(pairs[:, 0].unique())


def test_where_the_weight_is_leaves_are_small():
    tokens, where = flat(8, 8), torch.full((1, 64), 1e-4)
    where[0, [0, 1, 8, 9]] = 0.24
    left = Fovea(keep=10, weights="attention")(
        tokens, context(grid=grid(8, 8), cls_attention=where)
    )
    size = left.size.gather(1, left.owner)[0]
    assert size[[0, 1, 8, 9]].max() < 4 < size[[7, 56, 63]].min()


def test_focus_splits_further_what_weighs_and_blends_as_before():
    x = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    tokens, where, asked = VisualTokens.of(x), torch.ones(1, 64), [0, 1, 8, 9]
    where[0, asked] = 1.5
    made, small = context(grid=grid(8, 8), cls_attention=where), []
    for focus in (0.0, 1.0, 4.0):
        method = Fovea(keep=10, weights="attention", vector="mean", width=8, focus=focus)
        left = method(tokens, made)
        assert left.counts.tolist() == [10]
        small.append(left.size.gather(1, left.owner)[0, asked].float().mean())
        assert method.weight(tokens, made)[0, 0] == pytest.approx(1.5 * 64 / 66 + FLOOR)
    assert small[0] >= small[1] > small[2] == 1


@pytest.mark.parametrize(("vector", "index"), [("outlier", 3), ("medoid", 1)])
def test_a_leaf_is_one_of_its_tokens(vector, index):
    """Of four in a row: the one least like the image, or most like the leaf's own mean."""
    x = torch.tensor([[[1.0, 0.1], [1.0, 0.2], [1.0, 0.4], [0.2, 1.0], *[[1.0, 0.0]] * 4]])
    left = Fovea(keep=1, vector=vector)(VisualTokens.of(x), context(grid=grid(1, 8)))
    alone = Fovea(keep=2, vector=vector)(VisualTokens.of(x[:, :4]), context(grid=grid(1, 4)))
    assert torch.equal(left.x[0, 0], x[0, 3]) == (vector == "outlier")
    assert any(torch.equal(token, x[0, index]) for token in alone.x[0])


def test_a_mean_is_weighted_and_knows_its_size():
    x = torch.tensor([[[2.0, 0.0], [4.0, 0.0]]])
    share = torch.tensor([[0.75, 0.25]])
    method = Fovea(keep=1, weights="attention", vector="mean", width=2)
    torch.nn.init.constant_(method.size, 0.0).data[1] = torch.tensor([0.0, 7.0])
    left = method(VisualTokens.of(x), context(grid=grid(1, 2), cls_attention=share))
    first, second = (2 * n + FLOOR for n in (0.75, 0.25))
    mean = (2 * first + 4 * second) / (first + second)
    torch.testing.assert_close(left.x[0, 0], torch.tensor([mean, 7.0]))


def test_the_question_decides_and_nothing_asked_is_no_error():
    tokens, full = everything([16, 16])
    method = learned(keep=5)
    with torch.no_grad():
        method.scorer.key.weight.mul_(9)
        method.scorer.query.weight.mul_(9)
    other = {**full, "text": full["text"].flip(0)}
    silent = {**full, "text_mask": torch.zeros_like(full["text_mask"])}
    owners = [asked(tokens, given, method).owner for given in (full, other, silent)]
    assert not torch.equal(owners[0], owners[1])
    assert owners[2].amax(1).tolist() == [4, 4]
    given = Context(**{name: silent[name] for name in method.needs})
    assert torch.allclose(
        method.scorer(tokens, given), torch.tensor(1 / 16)
    )  # its own term is 0 yet
    method.weight(tokens, given).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_split_by_size_it_is_a_fixed_grid():
    """Halved twice each way, whatever the tokens show."""
    tokens, cells = VisualTokens.of(torch.randn(2, 144, 8)), context(grid=grid(12, 12, 2))
    fixed = Fovea(16, vector="mean", width=8, splits="size")(tokens, cells)
    pooled = Pool(stride=3, dims=2)(tokens, cells)
    assert torch.equal(fixed.owner, pooled.owner)
    torch.testing.assert_close(fixed.x, pooled.x)
    some = Fovea(18, vector="mean", width=8, splits="size")(tokens, cells)
    assert sorted(some.size[0].tolist()) == [3, 3, 6, 6] + [9] * 14


DRAWN = {"fovea": lambda **more: learned(**more), "divprune": DivPrune}


@pytest.mark.parametrize("method", DRAWN)
def test_budgets_are_drawn_in_training_and_asked_for_afterwards(method):
    tokens, full = everything([16, 16, 16, 16])
    method = DRAWN[method](keep=5, sampled=[0.25, 1.0]).train()
    full["generator"] = [torch.Generator().manual_seed(s) for s in range(4)]
    drawn = asked(tokens, full, method).counts.tolist()
    share = [torch.rand((), generator=torch.Generator().manual_seed(s)).item() for s in range(4)]
    wanted = [round(16 * math.exp(math.log(0.25) * (1 - u))) for u in share]
    assert drawn == wanted and len(set(drawn)) > 1
    assert asked(tokens, full, method.eval()).counts.tolist() == [5] * 4


def test_one_checkpoint_serves_every_budget():
    method = learned(keep=5, sampled=[0.05, 1.0]).eval()
    tokens, full = everything([16, 9])
    few = method.but(keep=2)
    assert asked(tokens, full, few).counts.tolist() == [2, 2]
    assert all(
        torch.equal(p, q) for p, q in zip(method.parameters(), few.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weights": "words"}, "want one of even, attention, question"),
        ({"vector": "max"}, "want one of outlier, medoid, mean"),
        ({"sampled": [0.5]}, "shares in"),
        ({"sampled": [0.0, 1.0]}, "shares in"),
        ({"sampled": [0.9, 0.1]}, "shares in"),
        ({"vector": "mean", "width": None}, "width=None"),
        ({"splits": "depth"}, "want one of detail, size"),
        ({"focus": -1.0}, "focus=-1"),
        ({"keep": 0}, "keep=0"),
    ],
)
def test_wrong_arguments(given, says):
    with pytest.raises(ValueError, match=says):
        Fovea(**given)
