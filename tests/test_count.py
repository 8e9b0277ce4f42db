"""`Compressor.count`: what a method says it leaves, before an image is seen, is what comes out."""

from __future__ import annotations

import pytest
import torch
from test_every_method import SHARE, VARIANTS, build, run

from foveate import Chain, DivPrune, FastV, Pool, Stages, Stride, VisualTokens
from foveate.core.compressor import Site, Tower

# Rows and columns of each view of an image.
LAYOUTS = {
    "a square": [(4, 4)],
    "a strip": [(3, 7)],
    "tiles of one size": [(4, 4)] * 3,
    "joined tiles": [(4, 4), (2, 8)],
}
# Of these the picture decides, or several views are cut to its shape behind the tower.
UNKNOWN = {
    "prumerge, adaptive",
    "prumerge_plus, adaptive",
    "focusllava, routed, vision alone",
}


def grid(views):
    boxes = [
        torch.cartesian_prod(torch.tensor([v]), torch.arange(h), torch.arange(w))
        for v, (h, w) in enumerate(views)
    ]
    return torch.cat(boxes)


def context(cells, seed):
    """What methods may look at, of one image."""
    draw = torch.Generator().manual_seed(seed)
    P, D = len(cells), 8

    def shares():
        return torch.rand(1, P, generator=draw).softmax(-1)

    known = {name: shares() for name in ("cls_attention", "last_attention", "own_attention")}
    x = torch.randn(1, P, D, generator=draw)
    return VisualTokens.of(x), known | {
        "text": torch.randn(1, 5, D, generator=draw),
        "text_mask": torch.ones(1, 5, dtype=torch.bool),
        "prompt_attention": shares(),
        "keys": torch.randn(1, P, D, generator=draw),
        "attentions": {i: shares() for i in range(-1, 4)},
        "received": {i: shares() for i in range(-1, 4)},
        "features": {i: torch.randn(1, P, D, generator=draw) for i in range(5)},
        "grid": cells[None],
        "generator": None,
        "overview": (cells[:, 0] == 0)[None] & (cells[:, 0].max() > 0),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_leaves_what_it_says(variant, layout):
    slug, arguments = VARIANTS[variant]
    method = build(slug, **{"keep": SHARE[slug], **arguments}).eval()
    cells = grid(LAYOUTS[layout])
    inside = any(part.site > Site(Tower.language) for part in method.at(1.0).parts())
    said = method.count(cells)
    if inside or variant in UNKNOWN or (slug == "tome" and len(LAYOUTS[layout]) > 1):
        assert said is None
        return
    for seed in range(3):
        assert int(run(method, *context(cells, seed)).counts) == said


@pytest.mark.parametrize("keep", [1, 5, 0.3, 1.0, 1000])
def test_whole_budgets_and_shares_count_alike(keep):
    cells = grid([(4, 4)])
    assert DivPrune(keep).count(cells) == int(run(DivPrune(keep), *context(cells, 0)).counts)


def test_chains_and_stages_follow_from_their_parts():
    cells = grid([(4, 6)])
    chain = Chain(Pool(2, dims=2), Stride(0.5))
    assert chain.count(cells) == 3 == int(run(chain, *context(cells, 0)).counts)
    assert Stages((0.5, FastV(0.5)), (1.0, chain)).count(cells) == 3
    assert Chain(Stride(8), FastV(4)).count(cells) is None
    # Nothing says where the tokens stand that another method left.
    assert Chain(Stride(8), Pool(2, dims=2)).count(cells) is None
    assert Chain(Stride(8), Pool(3)).count(cells) == 3
