"""What holds for every method. A new method is tested the moment it is in the dict."""

from __future__ import annotations

import inspect

import pytest
import torch
from probes import routed
from test_tokens import check

import foveate.methods
from foveate import METHODS, Compressor, Context, VisualTokens
from foveate.core.compressor import OF_BLOCKS, Tower
from foveate.core.sizes import SIZES
from foveate.hosts import saving
from foveate.hosts.switches import Switches

SHARE = dict.fromkeys(METHODS, 0.25) | {"identity": 1.0, "layerwise": 0.125, "tome": 0.5}
# What it takes to keep all, where that is not a matter of the budget alone.
ALL = {"llavolta": {"schedule": "two_stage"}}
# Settings that take another path through a method's code.
VARIANTS = {slug: (slug, {}) for slug in METHODS} | {
    "pool 2-d": ("pool", {"dims": 2}),
    "fastervlm by views": ("fastervlm", {"per_view": True}),
    "vispruner by views": ("vispruner", {"per_view": True, "important": 0.2}),
    "prumerge, adaptive": ("prumerge", {"keep": None}),
    "prumerge_plus, adaptive": ("prumerge_plus", {"keep": None}),
    "vscan in small windows": ("vscan", {"keep": 0.2, "window": 2}),
    "hiprune by views": ("hiprune", {"keep": 0.6, "anchors": 1.0, "per_view": True}),
    "holov in few crops": ("holov", {"keep": 0.7, "crops": 3}),
    "scope by views": ("scope", {"saliency": 0.5, "per_view": True}),
    "kmeans soft": ("kmeans", {"soft": True}),
    "vccattention in short blocks": ("vccattention", {"keep": 0.5, "block": 5}),
    "vccattention without a budget": ("vccattention", {"keep": None, "fine": 1, "block": 4}),
    "llavolta from end to end": ("llavolta", {"keep": 0.125, "schedule": "heavy"}),
    "llava_stf, windows alone": ("llava_stf", {"only": "stf"}),
    "llava_stf, blocks alone": ("llava_stf", {"only": "mbtf", "keep": 1.0}),
    "meteor, fusion alone": ("meteor", {"only": "fusion", "keep": 1.0, "hidden": 12}),
    "meteor, selection alone": ("meteor", {"only": "selection", "aggregate": "union"}),
    "meteor without words": ("meteor", {"text": False, "scan": "add", "balance": 1.0}),
    "meteor in windows, forward": ("meteor", {"scan": "window", "directions": "forward"}),
    "meteor by mamba1": ("meteor", {"operator": "mamba1", "aggregate": "product"}),
    "meteor by words": ("meteor", {"similarity": "words"}),
    "llava_stf in windows of three": ("llava_stf", {"keep": None, "window": 3, "blocks": 2}),
    "focusllava, routed": ("focusllava", {"keep": 0.5}),
    "focusllava, routed, vision alone": ("focusllava", {"keep": None, "only": "vision"}),
    "focusllava, routed without noise": (
        "focusllava",
        {"region": 2, "scales": [2, 1], "explore": False},
    ),
    "focusllava, text alone": ("focusllava", {"only": "text", "sampled": [0.3, 1.0]}),
    "pool, drawn": ("pool", {"sampled": [1, 2]}),
    "divprune, drawn": ("divprune", {"sampled": [0.1, 1.0]}),
    "fovea by the question": (
        "fovea",
        {"weights": "question", "vector": "mean", "sampled": [0.1, 1.0]},
    ),
    "sparsevlm with clusters": ("sparsevlm", {"version": 1, "table": 64}),
    "dart without words": ("dart", {"words": 0}),
    "fovea by attention": ("fovea", {"weights": "attention"}),
    "focusllava at one scale": ("focusllava", {"scales": [2]}),
}
# With all tokens too they are functions of their own: connectors, and a router that decides.
OWN = {"llava_stf", "meteor", "focusllava"}
SMALL = {
    "width": 8,
    "layers": 32,
    "tower_width": 8,
    "tower_layers": 4,
    "feature_width": 8,
    "feature_layer": 3,
}
KNOWN = {c.__name__: c for c in vars(foveate.methods).values() if isinstance(c, type)}


def build(slug, **arguments):
    """A method, for a model as small as the tokens here; its weights are the same every time."""
    torch.manual_seed(0)
    own = inspect.signature(METHODS[slug]).parameters
    return METHODS[slug](**{n: v for n, v in SMALL.items() if n in own}, **arguments)


def everything(lengths, seed=0, D=8):
    """Ragged tokens on 4×4 grids and a full context."""
    draw = torch.Generator().manual_seed(seed)
    B, P = len(lengths), max(lengths)
    valid = torch.arange(P) < torch.tensor(lengths)[:, None]
    x = torch.randn(B, P, D, generator=draw) * valid[..., None]
    patch = torch.arange(P)
    cells = torch.stack([torch.zeros_like(patch), patch // 4, patch % 4], -1).expand(B, P, 3)
    attention = torch.rand(B, P, generator=draw) * valid

    def given(block):
        own = torch.Generator().manual_seed(block + 100)
        return torch.rand(B, P, generator=own) * valid

    context = {
        "text": torch.randn(B, 5, D, generator=draw),
        "text_mask": torch.ones(B, 5, dtype=torch.bool),
        "cls_attention": attention / attention.sum(1, keepdim=True),
        "last_attention": attention,
        "own_attention": torch.rand(B, P, generator=draw) * valid,
        "prompt_attention": attention.flip(0),
        "previous": x * torch.rand(B, P, 1, generator=draw),
        "normed": x,
        "key_size": torch.rand(B, P, generator=draw),
        "words": {
            "normed": torch.randn(B, 5, D, generator=draw),
            "key_size": torch.rand(B, 5, generator=draw),
            "mask": torch.arange(5) < torch.tensor(lengths)[:, None],
        },
        "keys": torch.randn(B, P, D, generator=draw),
        "attentions": {i: given(i) for i in range(-1, 4)},
        "received": {i: given(i + 4) for i in range(-1, 4)},
        "features": {i: x.roll(i, -1) for i in range(5)},
        "grid": cells.masked_fill(~valid[..., None], -1),
        "overview": torch.zeros_like(valid),
        "generator": None,
    }
    return VisualTokens.of(x, valid), context


SAID = ("text", "text_mask", "words")
PER_TOKEN = ("cls_attention", "last_attention", "own_attention", "prompt_attention")
MEANS = ("keys", "previous", "normed", "key_size")


def run(method, tokens, context):
    """What acts at inference, one part after the other, with nothing but what each says it needs."""
    for part in method.parts():
        fields = {name: context[name] for name in part.needs}
        for name in part.needs & {*PER_TOKEN}:
            fields[name] = tokens.total(context[name])
        for name in part.needs & OF_BLOCKS:
            fields[name] = {i: tokens.total(value) for i, value in context[name].items()}
        for name in part.needs & {*MEANS}:
            fields[name] = tokens.mean(context[name])
        if "generator" in part.needs:
            fields["generator"] = tuple(torch.Generator().manual_seed(part.seed) for _ in tokens.x)
        tokens = part(tokens, Context(**fields))
    return tokens


def rows(context, index):
    return each(context, lambda name, value: value[index])


def each(context, change):
    """The context with every tensor of it changed, by name."""
    changed = {}
    for name, value in context.items():
        inner = {i: change(name, v) for i, v in value.items()} if isinstance(value, dict) else None
        changed[name] = None if value is None else inner or change(name, value)
    return changed


@pytest.fixture(params=sorted(METHODS))
def slug(request):
    return request.param


@pytest.fixture(params=sorted(VARIANTS))
def method(request):
    slug, arguments = VARIANTS[request.param]
    made = build(slug, **{"keep": SHARE[slug], **arguments})
    return routed(made) if "routed" in request.param else made


def test_the_small_model_has_every_size():
    assert SMALL.keys() == SIZES.keys()


def test_fewer_tokens_and_the_three_invariants(method):
    tokens, context = everything([16, 9, 4, 1])
    out = run(method, tokens, context)
    check(out)
    assert (out.counts <= tokens.counts).all() and (out.counts >= 1).all()


def test_a_copy_with_no_changes_is_the_same(method):
    if method.scheduled:
        with pytest.raises(TypeError, match="a schedule's stages"):
            method.but()
        return
    tokens, context = everything([16, 9, 4, 1])
    copy = method.but()
    assert repr(copy) == repr(method)
    assert torch.equal(run(copy, tokens, context).x, run(method, tokens, context).x)


def test_keep_keeps_exactly(slug):
    tokens, context = everything([16, 16])
    for keep in (1, 3, 16, 99):
        try:
            counts = run(build(slug, keep=keep).eval(), tokens, context).counts
        except ValueError as error:
            assert "keep=" in str(error)  # a budget this method cannot express says so
            continue
        assert counts.tolist() == [min(keep, 16)] * 2
    share = build(slug, keep=SHARE[slug]).eval()  # in training, a router may try other scales
    assert run(share, tokens, context).counts.tolist() == [int(16 * SHARE[slug])] * 2


@pytest.mark.parametrize("slug", sorted(METHODS.keys() - OWN))
def test_keeping_all_is_the_identity(slug):
    tokens, context = everything([16, 9, 4])
    method = build(slug, keep=1.0, **ALL.get(slug, {}))
    assert method.selects
    out = run(method, tokens, context)
    assert torch.equal(out.x, tokens.x) and torch.equal(out.owner, tokens.owner)


def test_a_padded_row_is_the_row_alone(method):
    lengths = [16, 11, 5]
    tokens, context = everything(lengths)
    together = run(method, tokens, context)
    for row, n in enumerate(lengths):
        one = slice(row, row + 1)
        alone = VisualTokens(tokens.x[one, :n], tokens.owner[one, :n], tokens.valid[one, :n])
        short = lambda name, value: value if name in SAID else value[:, :n]  # noqa: B023, E731
        cut = each(rows(context, one), short)
        out = run(method, alone, cut)
        M = int(out.counts[0])
        assert int(together.counts[row]) == M
        assert torch.equal(together.owner[row, :n], out.owner[0])
        torch.testing.assert_close(together.x[row, :M], out.x[0, :M])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_is_kept(method, dtype):
    tokens, context = everything([16, 9])
    half = tokens.carry(tokens.x.to(dtype))
    out = run(method.to(dtype), half, context)
    assert out.x.dtype == dtype and torch.isfinite(out.x).all()


def test_gradients_reach_tokens_and_parameters(method):
    """Every parameter from the first step on, and not with zeros only from the second on."""
    tokens, context = everything([16, 9])
    for _ in range(2):
        x = tokens.x.clone().requires_grad_()
        method.zero_grad()
        run(method, tokens.carry(x), context).x.square().sum().backward()
        assert x.grad.abs().sum() > 0
        assert all(p.grad is not None for p in method.parameters())
        with torch.no_grad():  # a gate that starts at zero lets nothing through until it has moved
            [p.sub_(1e-3 * p.grad) for p in method.parameters()]
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())


def test_arguments_rebuild_it(method):
    again = saving.rebuild(saving.describe(method, Switches()), KNOWN)
    assert repr(again) == repr(method)
    assert [(p.site, p.needs) for p in again.every()] == [(p.site, p.needs) for p in method.every()]


def test_it_names_its_paper(slug):
    make = METHODS[slug]
    assert make.__module__ == f"foveate.methods.{slug}"
    about = inspect.getdoc(getattr(make, "__self__", make))  # a classmethod speaks for its class
    assert "arXiv:" in about.splitlines()[0] or "no paper" in about


def test_it_has_a_site_and_only_known_needs(method):
    for part in method.every():
        assert isinstance(part, Compressor) and isinstance(part.site.tower, Tower)
        assert part.needs <= set(Context.__dataclass_fields__)
