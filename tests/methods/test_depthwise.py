"""The depthwise convolution, a baseline of LLaVolta's paper, arXiv:2406.20092."""

import json

import pytest
import torch
from families import Llava
from probes import opened, views
from safetensors.torch import load_file, save_file
from torch import nn

import foveate
from foveate import Context, DepthwiseConv, Pool, VisualTokens
from foveate.train.model import load
from foveate.train.recipe import Recipe


def authors(method, x):
    """What the paper's code computes of maps: x (B, D, H, W), in plain layers of PyTorch."""
    conv = nn.Conv2d(
        method.width, method.width, method.kernel, method.kernel, 0, 1, method.width, False
    )
    conv.weight = method.conv.weight
    learned = conv(x).movedim(1, -1)
    learned = nn.functional.layer_norm(
        learned, (method.width,), method.norm.weight, method.norm.bias, 1e-6
    )
    learned = nn.GELU()(learned.movedim(-1, 1))
    return learned * method.gate.tanh() + nn.AvgPool2d(method.kernel, method.kernel)(x)


@pytest.mark.parametrize(("side", "kernel"), [(24, 2), (24, 3), (8, 4), (6, 6)])
def test_it_is_the_authors_on_a_square(side, kernel):
    x, method = torch.randn(2, 6, side, side), opened(DepthwiseConv(6, kernel))
    out = method(
        VisualTokens.of(x.flatten(2).mT), Context(grid=views((side, side)).expand(2, -1, -1))
    )
    torch.testing.assert_close(out.x, authors(method, x).flatten(2).mT)
    assert out.size.unique().tolist() == [kernel**2]


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (5, 7), (1, 9), (2, 1)])
def test_untrained_it_is_pooling(rows, columns):
    x, context = (
        torch.randn(2, rows * columns, 6),
        Context(grid=views((rows, columns)).expand(2, -1, -1)),
    )
    one, two = (
        m(VisualTokens.of(x), context) for m in (DepthwiseConv(6, 2), Pool(2, layer=2, dims=2))
    )
    assert torch.equal(one.x, two.x) and torch.equal(one.owner, two.owner)


def test_the_nearest_patch_stands_in_over_an_edge():
    """A grid of 3 × 3 is pooled as far as it goes, and convolved as 4 × 4 with its edges repeated."""
    x, method = torch.randn(1, 4, 3, 3), opened(DepthwiseConv(4, 2))
    out = method(VisualTokens.of(x.flatten(2).mT), Context(grid=views((3, 3))))
    repeated = nn.functional.pad(x, (0, 1, 0, 1), "replicate")
    learned = authors(method, repeated) - nn.AvgPool2d(2)(repeated)
    pooled = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
    torch.testing.assert_close(out.x, (learned + pooled).flatten(2).mT)


def test_views_are_pooled_each_by_itself():
    """Tiles one behind the other, and of the second the last row alone: each as if it were an image."""
    method, x = opened(DepthwiseConv(4, 2)), torch.randn(1, 2 * 9, 4)
    both = method(VisualTokens.of(x), Context(grid=views((3, 3), (3, 3))))
    each = [method(VisualTokens.of(v), Context(grid=views((3, 3)))).x for v in x.split(9, 1)]
    torch.testing.assert_close(both.x, torch.cat(each, 1))
    short = torch.cat([torch.arange(9), torch.arange(15, 18)])
    cut = method(VisualTokens.of(x[:, short]), Context(grid=views((3, 3), (3, 3))[:, short]))
    assert cut.counts.tolist() == [4 + 2]
    torch.testing.assert_close(cut.x[:, :4], each[0])


def test_budgets_and_sizes():
    assert DepthwiseConv.keeping(0.25, width=8).kernel == 2
    with pytest.raises(ValueError, match=r"1/stride²: 1, 0\.25, 0\.111"):
        DepthwiseConv.keeping(0.5, width=8)
    for wrong in ({"width": 0}, {"width": 8.0}, {"width": 8, "kernel": 0}):
        with pytest.raises(ValueError, match="want an int >= 1"):
            DepthwiseConv(**wrong)
    with pytest.raises(ValueError, match=r"tokens of width 6.*width 4.*for_model"):
        DepthwiseConv(4)(VisualTokens.of(torch.randn(1, 4, 6)), Context(grid=views((2, 2))))
    assert not list(DepthwiseConv(8, kernel=1).parameters())


def test_a_checkpoint_of_the_old_form_is_refused(tmp_path):
    """It was another compressor: 1-D, with a bias and no norm. By its arguments, and by its weights."""
    model = Llava().model()
    foveate.compress(model, DepthwiseConv.for_model(model)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["visual_compression"]["arguments"] = {"width": 64, "stride": 4, "layer": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    ours = "model.visual_compressor."
    weights = {n: w for n, w in weights.items() if not n.startswith(ours)}
    old = {"gate": torch.zeros(1), "conv.weight": torch.ones(64, 1, 4), "conv.bias": torch.ones(64)}
    weights |= {ours + name: value for name, value in old.items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"DepthwiseConv.*stride"):
        foveate.from_pretrained(tmp_path)
    recipe = Recipe("r", str(tmp_path), "data.json", {"compressor": 1e-3}, method="depthwise")
    with pytest.raises(
        ValueError, match=r"lacks weights of the compressor, 2 of 4: norm\.bias, norm\.weight"
    ):
        load(recipe)
