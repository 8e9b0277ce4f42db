"""LLaVA-STF, arXiv:2506.07138: spatial token fusion and multi-block token fusion."""

import pytest
import torch
from families import ONE, TWO, Gemma3, Llava, PaliGemma
from probes import views
from torch import nn
from transformers.activations import get_activation as activation

import foveate
from foveate import (
    METHODS,
    Context,
    LLaVASTF,
    MultiBlockFusion,
    SpatialFusion,
    VisualTokens,
)
from foveate.methods.llava_stf import blocks_of


def seen(method, x, cells):
    return method(VisualTokens.of(x), Context(grid=cells.expand(len(x), -1, -1)))


# Spatial fusion


@pytest.mark.parametrize("window", [2, 3, 4])
def test_it_is_a_convolution_with_a_stride(window):
    method = SpatialFusion(width=10, feature_width=6, window=window)
    x = torch.randn(2, 144, 6)
    first, _, second = method.mlp
    one = nn.Conv2d(6, 40, window, stride=window)
    two = nn.Conv2d(40, 10, 1)
    with torch.no_grad():
        one.weight.copy_(first.weight.reshape(40, 6, window, window))
        one.bias.copy_(first.bias)
        two.weight.copy_(second.weight[..., None, None])
        two.bias.copy_(second.bias)
    want = two(nn.functional.gelu(one(x.mT.reshape(2, 6, 12, 12)))).flatten(2).mT
    got = seen(method, x, views((12, 12)))
    assert got.counts.tolist() == [144 // window**2] * 2
    torch.testing.assert_close(got.x, want, rtol=1e-5, atol=1e-5)


def test_fused_tokens_stand_in_reading_order():
    method = SpatialFusion(1, 1, window=2)
    means, _ = method.joined(VisualTokens.of(torch.arange(24.0)[None, :, None]), views((4, 6)))
    assert means.anchor.tolist() == [[0, 2, 4, 12, 14, 16]]
    assert means.x.flatten().tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]


@pytest.mark.parametrize(
    ("rows", "columns", "window"), [(3, 5, 2), (5, 5, 3), (7, 6, 4), (2, 2, 3)]
)
def test_a_window_over_the_edge_is_padded_by_replication(rows, columns, window):
    """As in F.pad; also where the grid begins behind a border, as joined tiles may."""
    method = SpatialFusion(1, 1, window)
    x = torch.arange(1.0, rows * columns + 1)
    whole = x.reshape(1, 1, rows, columns)
    after = -rows % window, -columns % window
    for before in (False, True):
        top, left = after if before else (0, 0)
        sides = (left, 0, top, 0) if before else (0, after[1], 0, after[0])
        padded = nn.functional.pad(whole, sides, mode="replicate")
        want = nn.functional.unfold(padded, window, stride=window)[0].mT
        cells = views((rows, columns)) + torch.tensor([0, top, left])
        fused, joined = method.joined(VisualTokens.of(x[None, :, None]), cells)
        assert fused.counts.tolist() == [len(want)]
        assert torch.equal(joined[0], want)


def test_views_and_tokens_outside_the_grid_keep_to_themselves():
    """Two frames, each with a class token at (-1, -1)."""
    alone = torch.tensor([[[0, -1, -1]]])
    cells = torch.cat(
        [
            alone,
            views((2, 2)),
            alone + torch.tensor([1, 0, 0]),
            views((2, 2)) + torch.tensor([1, 0, 0]),
        ],
        1,
    )
    method = SpatialFusion(1, 1, window=2)
    x = torch.arange(10.0)[None, :, None]
    means, joined = method.joined(VisualTokens.of(x), cells)
    assert means.owner.tolist() == [[0, 1, 1, 1, 1, 2, 3, 3, 3, 3]]
    assert joined[0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 5, 5, 5], [6, 7, 8, 9]]


def test_behind_a_method_that_dropped_tokens_their_neighbours_stand_in():
    keep = torch.ones(1, 16, dtype=torch.bool)
    keep[0, [0, 2, 3, 6, 7]] = False  # one of the first window, the whole second
    tokens = VisualTokens.of(torch.arange(16.0)[None, :, None]).where(keep)
    means, joined = SpatialFusion(1, 1, window=2).joined(tokens, views((4, 4)))
    assert joined[0, 0].tolist() == [1, 1, 4, 5]  # of two as near, the one to the right
    assert means.counts.tolist() == [3] and means.owner[0, 2] == -1


# Multi-block fusion


def test_it_is_an_mlp_on_the_joined_blocks_in_their_order():
    method = MultiBlockFusion(feature_width=4, tower_width=3, vision_layers=(5, 2))
    x, deep, early = torch.randn(1, 7, 4), torch.randn(1, 7, 3), torch.randn(1, 7, 3)
    out = method(VisualTokens.of(x), Context(features={2: early, 5: deep}))
    want = method.mlp(torch.cat([x, deep, early], -1))
    assert torch.equal(out.x, want) and out.x.shape == x.shape and len(method.mlp) == 3


def test_the_blocks_of_the_paper_and_of_other_towers():
    assert blocks_of(23) == blocks_of(23, 8) == (21, 18, 15, 12, 9, 6, 3)
    assert blocks_of(23, 4) == (18, 12, 6)
    assert blocks_of(4) == (3, 2, 1) and blocks_of(4, 2) == (2,) and blocks_of(4, 1) == ()
    for layer in range(1, 60):
        for blocks in range(1, layer + 1):
            found = blocks_of(layer, blocks)
            assert len(set(found)) == blocks - 1 and all(0 < i < layer for i in found)
    with pytest.raises(ValueError, match="blocks=5: the tower gives at most 4"):
        blocks_of(4, 5)


def test_a_final_activation_is_an_option():
    for method in (
        MultiBlockFusion(4, 4, vision_layers=(1,), final_activation=True),
        SpatialFusion(4, 4, final_activation=True),
    ):
        assert isinstance(method.mlp[-1], nn.GELU) and len(method.mlp) == 4
    assert LLaVASTF(4, 4, 4, final_activation=True).arguments()["final_activation"]


# The connector


def test_at_7b_it_has_the_published_shape():
    with torch.device("meta"):
        method = LLaVASTF()
    assert sum(p.numel() for p in method.parameters()) == 171_992_064  # 172.0 M
    shapes = {name: tuple(p.shape) for name, p in method.named_parameters() if p.dim() == 2}
    assert shapes == {
        "multi_block.mlp.0.weight": (4096, 8192),
        "multi_block.mlp.2.weight": (1024, 4096),
        "spatial.mlp.0.weight": (16384, 4096),
        "spatial.mlp.2.weight": (4096, 16384),
    }
    assert method.vision_layers == (21, 18, 15, 12, 9, 6, 3)
    means, _ = method.spatial.joined(VisualTokens.of(torch.zeros(1, 576, 1)), views((24, 24)))
    assert means.counts.tolist() == [144]


def test_it_builds_itself_from_a_model():
    model = Llava().model()
    method = LLaVASTF.for_model(model, blocks=2)
    sizes = {"width": 64, "feature_width": 32, "tower_width": 32, "vision_layers": [2]}
    made = {"window": 2, "hidden": 256, "block_hidden": 128, "final_activation": False}
    assert method.arguments() == sizes | made
    assert SpatialFusion.for_model(model, window=3).mlp[0].in_features == 9 * 32
    assert MultiBlockFusion.for_model(model.config).feature_width == 32


def test_its_parts_by_one_name():
    make = METHODS["llava_stf"]
    assert isinstance(make(), LLaVASTF) and make(keep=1 / 9).spatial.window == 3
    assert isinstance(make(only="stf", keep=0.0625), SpatialFusion)
    assert isinstance(make(only="mbtf", keep=1.0), MultiBlockFusion)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep": 0.3}, r"keep=0.3: want a share of 1/stride²"),
        ({"keep": 0.25, "window": 2}, "say the same thing"),
        ({"only": "both"}, "only='both': want 'stf', 'mbtf'"),
        ({"only": "mbtf", "keep": 0.25}, "only='mbtf' keeps all tokens"),
        ({"only": "stf", "blocks": 4}, "blocks=4: this part fuses no blocks"),
        ({"only": "mbtf", "hidden": 4}, "hidden=4: this part fuses no windows"),
        ({"blocks": 2, "vision_layers": [3]}, "give one"),
        ({"vision_layers": [3, 3]}, r"vision_layers=\[3, 3\]: want every hidden state once"),
        ({"window": 0}, "window=0: want an int >= 1"),
        ({"hidden": -1}, "hidden=-1: want an int >= 1"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments, words):
    with pytest.raises(ValueError, match=words):
        METHODS["llava_stf"](**arguments)


def test_tokens_of_another_width():
    with pytest.raises(ValueError, match="tokens of width 3 for a connector that reads 4"):
        seen(SpatialFusion(4, 4), torch.randn(1, 4, 3), views((2, 2)))


def test_a_hidden_state_that_the_tower_does_not_have():
    model = Llava().model()
    with pytest.raises(ValueError, match="vision_layers has 21: the tower has hidden states 0 to"):
        foveate.compress(model, LLaVASTF(64, 32, 32))
    assert not foveate.is_compressed(model)


# The warm start


@pytest.mark.parametrize("family", [Llava(), PaliGemma(), Gemma3()], ids=lambda f: f.name)
@pytest.mark.parametrize("window", [2, 4])
def test_a_warm_start_is_the_old_projector_and_average_pooling(family, window):
    model, inputs = family.model(), family.inputs((ONE, TWO))
    wide = {"window": window, "hidden": window**2 * 64}
    pool = foveate.Pool(window, dims=2)
    with torch.no_grad():
        for only, other in [(None, pool), ("stf", pool), ("mbtf", foveate.Identity())]:
            arguments = {"only": only} | ({} if only == "mbtf" else wide)
            foveate.compress(model, foveate.sized(METHODS["llava_stf"], model, **arguments))
            cold = model(**inputs).logits
            got = foveate.warm_start(model)(**inputs).logits
            foveate.compress(model, other)
            want = model(**inputs).logits
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(cold, want, rtol=1e-2, atol=1e-2)
            foveate.restore(model)


def test_edges_of_windows_of_two_begin_as_pooling_too():
    """Padding by replication shows every patch at the edge as often as the others."""
    method = SpatialFusion(6, 4, window=2)
    projector = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6))
    method.warm_start(projector)
    x, cells = torch.randn(1, 15, 4), views((3, 5))
    pooled = foveate.Pool(2, dims=2)(VisualTokens.of(projector(x)), Context(grid=cells))
    torch.testing.assert_close(seen(method, x, cells).x, pooled.x)


def test_parts_without_weights_begin_as_they_are():
    model = Llava().model()
    foveate.compress(model, foveate.Chain(foveate.VisionZip(8), SpatialFusion.for_model(model)))
    foveate.warm_start(model)


def test_no_warm_start_on_the_meta_device():
    with torch.device("meta"):
        model = Llava().model_class(Llava().config())
        foveate.compress(model, SpatialFusion.for_model(model))
    with pytest.raises(ValueError, match="on the meta device: start warm before that"):
        foveate.warm_start(model)


def test_no_warm_start_where_nothing_could_be_equal():
    model = Llava().model()
    with pytest.raises(ValueError, match="not compressed"):
        foveate.warm_start(model)
    for method, words in [
        (LLaVASTF.for_model(model, final_activation=True), "behind a final activation"),
        (LLaVASTF.for_model(model, hidden=10), "takes 256 hidden units, and there are 10"),
        (LLaVASTF.for_model(model, window=3), "make the method with hidden=576"),
        (LLaVASTF.for_model(model, block_hidden=10), "takes 64 hidden units, and there are 10"),
        (foveate.DepthwiseConv.for_model(model), "DepthwiseConv has no warm start"),
        (foveate.Pool(2), "Pool has no weights"),
    ]:
        stays_cold(model, method, words)


def stays_cold(model, method, words):
    """No warm start, in these words, and the weights are as they were."""
    foveate.compress(model, method)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        foveate.warm_start(model)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda projector: setattr(projector, "act", nn.Tanh()), "no two with a GELU between them"),
        (lambda p: setattr(p, "act", activation("quick_gelu")), "no two with a GELU between them"),
        (lambda p: setattr(p, "norm", nn.LayerNorm(32)), r"nothing else .* LayerNorm"),
    ],
    ids=["tanh", "quick GELU", "a norm"],
)
def test_another_kind_of_projector_leaves_the_weights_as_they_were(change, words):
    model = Llava().model()
    change(model.model.multi_modal_projector)
    stays_cold(model, SpatialFusion.for_model(model), words)
