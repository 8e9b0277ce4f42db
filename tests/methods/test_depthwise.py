"""The depthwise convolution, a baseline of LLaVolta's paper, arXiv:2406.20092."""

import pytest
import torch
from families import ONE, Llava
from probes import opened

import foveate
from foveate import Context, DepthwiseConv, Pool, VisualTokens


def test_untrained_it_is_pooling():
    tokens = VisualTokens.of(torch.randn(2, 21, 6))
    one, two = DepthwiseConv(6, 8)(tokens, Context()), Pool(8)(tokens, Context())
    assert torch.equal(one.x, two.x) and torch.equal(one.owner, two.owner)


def test_it_is_the_formula():
    x, method = torch.randn(2, 24, 6), opened(DepthwiseConv(6, 8))
    kernel, bias = method.conv.weight, method.conv.bias
    windows = x.reshape(2, 3, 8, 6)
    learned = torch.einsum("bmsd,ds->bmd", windows, kernel[:, 0]) + bias
    want = windows.mean(2) + torch.tanh(torch.tensor(0.7)) * learned
    torch.testing.assert_close(method(VisualTokens.of(x), Context()).x, want)


def test_a_short_last_run_is_padded_with_zeros():
    """Whatever stands in the padding of a row."""
    method = opened(DepthwiseConv(1, 4))
    with torch.no_grad():
        method.conv.weight.copy_(torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]]))
        method.conv.bias.fill_(5.0)
    x = torch.tensor([[1.0, 1, 1, 1, 2, 4, 9, 9]])[..., None]
    valid = torch.tensor([[True] * 6 + [False] * 2])
    gate = torch.tanh(torch.tensor(0.7))
    out = method(VisualTokens.of(x, valid), Context())
    want = torch.stack([1 + gate * 1116, 3 + gate * 47])
    torch.testing.assert_close(out.x.flatten(), want)


def test_rows_of_padding_stay_empty():
    method = opened(DepthwiseConv(3, 4))
    valid = torch.arange(8) < torch.tensor([[8], [3]])
    out = method(VisualTokens.of(torch.randn(2, 8, 3), valid), Context())
    assert out.counts.tolist() == [2, 1] and not out.x[1, 1].any()


def test_the_gate_learns_first_and_the_kernels_after_it():
    method, tokens = DepthwiseConv(4, 2), VisualTokens.of(torch.randn(1, 8, 4))
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        method(tokens, Context()).x.square().sum().backward()
        moved.append({n for n, p in method.named_parameters() if p.grad.any()})
        optimizer.step()
    assert moved == [{"gate"}, {"gate", "conv.weight", "conv.bias"}]


def test_budgets_and_sizes():
    assert DepthwiseConv.keeping(0.25, width=8).stride == 4
    with pytest.raises(ValueError, match=r"0\.5, 0\.333, 0\.25"):
        DepthwiseConv.keeping(0.4, width=8)
    for wrong in ({"width": 0}, {"width": 8.0}, {"width": 8, "stride": 0}):
        with pytest.raises(ValueError, match="want an int >= 1"):
            DepthwiseConv(**wrong)
    with pytest.raises(ValueError, match=r"tokens of width 6.*width 4.*for_model"):
        DepthwiseConv(4)(VisualTokens.of(torch.randn(1, 8, 6)), Context())
    assert not list(DepthwiseConv(8, stride=1).parameters())


def test_a_checkpoint_brings_its_weights_back(tmp_path):
    family = Llava()
    model, inputs = family.model(), family.inputs((ONE,))
    method = opened(DepthwiseConv.for_model(model, stride=4))
    foveate.compress(model, method)
    with torch.no_grad():
        want = model(**inputs).logits
        model.save_pretrained(tmp_path)
        back = foveate.from_pretrained(tmp_path)
        assert torch.equal(back(**inputs).logits, want)
        method.gate.zero_()
        assert not torch.equal(model(**inputs).logits, want)
    saved = back.model.visual_compressor.state_dict()
    assert saved.keys() == {"gate", "conv.weight", "conv.bias"} and saved["gate"] == 0.7
