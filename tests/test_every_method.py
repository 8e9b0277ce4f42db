"""What holds for every method. A new method is tested the moment it is in the dict."""

from __future__ import annotations

import inspect

import pytest
import torch
from test_tokens import check

from foveate import METHODS, Context, VisualTokens
from foveate.compressor import Tower

SHARE = {slug: 1.0 if slug == "identity" else 0.25 for slug in METHODS}


def everything(lengths, seed=0, D=8):
    """Ragged tokens on 4×4 grids and a full context."""
    draw = torch.Generator().manual_seed(seed)
    B, P = len(lengths), max(lengths)
    valid = torch.arange(P) < torch.tensor(lengths)[:, None]
    x = torch.randn(B, P, D, generator=draw) * valid[..., None]
    patch = torch.arange(P)
    cells = torch.stack([torch.zeros_like(patch), patch // 4, patch % 4], -1).expand(B, P, 3)
    attention = torch.rand(B, P, generator=draw) * valid
    context = {
        "text": torch.randn(B, 5, D, generator=draw),
        "text_mask": torch.ones(B, 5, dtype=torch.bool),
        "cls_attention": attention / attention.sum(1, keepdim=True),
        "last_attention": attention,
        "prompt_attention": attention.flip(0),
        "keys": torch.randn(B, P, D, generator=draw),
        "features": (x, x * 2),
        "grid": cells.masked_fill(~valid[..., None], -1),
        "generator": None,
    }
    return VisualTokens.of(x, valid), context


def run(method, tokens, context):
    """With nothing but what the method says it needs."""
    fields = {name: context[name] for name in method.needs}
    if "generator" in method.needs:
        fields["generator"] = tuple(torch.Generator().manual_seed(method.seed) for _ in tokens.x)
    return method(tokens, Context(**fields))


def rows(context, index):
    pick = lambda v: tuple(f[index] for f in v) if isinstance(v, tuple) else v[index]  # noqa: E731
    return {k: None if v is None else pick(v) for k, v in context.items()}


@pytest.fixture(params=sorted(METHODS))
def slug(request):
    return request.param


@pytest.fixture
def method(slug):
    return METHODS[slug](keep=SHARE[slug])


def test_fewer_tokens_and_the_three_invariants(method):
    tokens, context = everything([16, 9, 4, 1])
    out = run(method, tokens, context)
    check(out)
    assert (out.counts <= tokens.counts).all() and (out.counts >= 1).all()


def test_keep_keeps_exactly(slug):
    tokens, context = everything([16, 16])
    for keep in (1, 3, 16, 99):
        try:
            method = METHODS[slug](keep=keep)
        except ValueError as error:
            assert "keep=" in str(error)  # a budget this method cannot express says so
            continue
        assert run(method, tokens, context).counts.tolist() == [min(keep, 16)] * 2
    share = METHODS[slug](keep=SHARE[slug])
    assert run(share, tokens, context).counts.tolist() == [int(16 * SHARE[slug])] * 2


def test_keeping_all_is_the_identity(slug):
    tokens, context = everything([16, 9, 4])
    method = METHODS[slug](keep=1.0)
    assert method.selects
    out = run(method, tokens, context)
    assert torch.equal(out.x, tokens.x) and torch.equal(out.owner, tokens.owner)


def test_permuting_the_batch_permutes_the_result(method):
    tokens, context = everything([16, 16, 16])
    order = torch.tensor([2, 0, 1])
    moved = VisualTokens(tokens.x[order], tokens.owner[order], tokens.valid[order])
    one, two = run(method, tokens, context), run(method, moved, rows(context, order))
    assert torch.equal(one.owner[order], two.owner)
    torch.testing.assert_close(one.x[order], two.x)


def test_a_padded_row_is_the_row_alone(method):
    lengths = [16, 11, 5]
    tokens, context = everything(lengths)
    together = run(method, tokens, context)
    for row, n in enumerate(lengths):
        one = slice(row, row + 1)
        alone = VisualTokens(tokens.x[one, :n], tokens.owner[one, :n], tokens.valid[one, :n])
        cut = {
            k: v
            if v is None
            else tuple(f[:, :n] for f in v)
            if isinstance(v, tuple)
            else v
            if "text" in k
            else v[:, :n]
            for k, v in rows(context, one).items()
        }
        out = run(method, alone, cut)
        M = int(out.counts[0])
        assert int(together.counts[row]) == M
        assert torch.equal(together.owner[row, :n], out.owner[0])
        torch.testing.assert_close(together.x[row, :M], out.x[0, :M])


def test_same_input_twice_is_the_same_output(method):
    tokens, context = everything([16, 9])
    one, two = run(method, tokens, context), run(method, tokens, context)
    assert torch.equal(one.x, two.x) and torch.equal(one.owner, two.owner)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_is_kept(method, dtype):
    tokens, context = everything([16, 9])
    half = tokens.carry(tokens.x.to(dtype))
    out = run(method.to(dtype), half, context)
    assert out.x.dtype == dtype and torch.isfinite(out.x).all()


def test_gradients_reach_tokens_and_parameters(method):
    tokens, context = everything([16, 9])
    x = tokens.x.clone().requires_grad_()
    run(method, tokens.carry(x), context).x.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in method.parameters())


def test_arguments_rebuild_it(method):
    again = type(method)(**method.arguments())
    assert repr(again) == repr(method) and again.site == method.site and again.needs == method.needs


def test_it_names_its_paper_and_only_known_needs(method, slug):
    assert type(method).__module__ == f"foveate.methods.{slug}"
    first = inspect.getdoc(type(method)).splitlines()[0]
    assert "arXiv:" in first or "no paper" in inspect.getdoc(type(method))
    assert method.needs <= set(Context.__dataclass_fields__)
    assert isinstance(method.site.tower, Tower)


@pytest.mark.parametrize("keep", [0, -3, 2.0, True, "1"])
def test_wrong_budgets_say_what_is_right(slug, keep):
    with pytest.raises(ValueError, match="keep="):
        METHODS[slug](keep=keep)
