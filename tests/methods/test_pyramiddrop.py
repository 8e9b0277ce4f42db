"""PyramidDrop, arXiv:2410.17247."""

import pytest
import torch
from calling import close, traced
from families import FAMILIES, ONE, TWO
from oracle import reference
from probes import Looks
from test_sight import recorded

import foveate
from foveate import Chain, Context, PyramidDrop, VisualTokens, pyramiddrop
from foveate.core.compressor import language


def counts(method, patches):
    """Tokens of each row after each cut."""
    valid = torch.arange(max(patches)) < torch.tensor(patches)[:, None]
    tokens, found = VisualTokens.of(torch.randn(*valid.shape, 3), valid), []
    for part in method.parts():
        tokens = part(tokens, Context(own_attention=torch.rand(tokens.valid.shape)))
        found.append(tokens.counts.tolist())
    return found


def test_the_papers_pyramid():
    """Before layers 8, 16 and 24: int(.5 n), int(.25 n), int(.125 n) of the original n."""
    method, patches = pyramiddrop(), [576, 2304, 584, 577, 40]
    assert [part.site.layer for part in method.parts()] == [8, 16, 24]
    want = [[int(n * share) for n in patches] for share in (0.5, 0.25, 0.125)]
    assert counts(method, patches) == want


@pytest.mark.parametrize(
    ("keep", "want"),
    [(72, [288, 144, 72]), (0.027, [174, 52, 16]), (1, [69, 8, 1]), (1.0, [576] * 3)],
)
def test_a_budget_is_what_is_left_and_each_cut_keeps_the_same_share(keep, want):
    """Rounded down: 0.027 of 576 is 16, and 174.4 and 52.8 lie between; 8.3 is the cube root of 576."""
    assert counts(pyramiddrop(keep), [576]) == [[n] for n in want]


def test_a_cut_keeps_what_is_looked_at_most_the_earlier_of_equals():
    attention = torch.tensor([[0.1, 0.4, 0.1, 0.3, 0.1], [0.2, 0.9, 0.5, 0.0, 0.0]])
    valid = torch.tensor([[True] * 5, [True, True, True, False, False]])
    tokens = VisualTokens.of(torch.randn(2, 5, 2), valid)
    out = PyramidDrop(3)(tokens, Context(own_attention=attention))
    assert out.owner.tolist() == [[0, 1, -1, 2, -1], [0, 1, 2, -2, -2]]


@pytest.mark.parametrize("name", sorted(FAMILIES))
@torch.no_grad()
def test_behind_a_cut_a_layer_looks_at_what_is_left(name):
    """Its row over the short sequence is that of the whole one with the dropped columns hidden."""
    family = FAMILIES[name]
    model, bare, prompts = family.model(), family.model("eager"), (ONE, TWO)
    for padding in ("left", "right"):
        inputs, looks = family.inputs(prompts, padding), Looks(language(3), ["own_attention"])
        with foveate.compressed(model, Chain(PyramidDrop(5, layer=1), looks)):
            _, steps = traced(model, inputs)
        _, context = looks.seen[0]
        stands = family.stands(prompts, inputs["input_ids"])
        with recorded() as calls:
            reference(bare, stands, inputs, steps[:1])
        ((_, weights),) = list(calls.values())[-family.layers :][3]
        for i, stand in enumerate(stands):
            left = torch.tensor(stand.patches)[steps[0].owner[i][: len(stand.patches)] >= 0]
            last = inputs["attention_mask"][stand.prompt].nonzero()[-1, 0]
            assert len(left) == 5
            close(context.own_attention[i, :5], weights[stand.prompt].mean(0)[last, left])


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3"])
def test_it_asks_without_a_trace(name):
    """Nobody who listens to attention hears it twice, and no cache holds what was asked."""
    family, heard = FAMILIES[name], []
    model, inputs = family.model(), family.inputs((ONE,))
    for layer in model.model.language_model.layers:
        layer.self_attn.register_forward_hook(lambda *_: heard.append(1))
    with foveate.compressed(model, PyramidDrop(4, layer=2)), torch.no_grad():
        out = model(**inputs, use_cache=True)
    lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    S = inputs["input_ids"].shape[1]
    gone = S - lengths[2]
    assert len(heard) == len(lengths) and lengths[:2] == [S, S] and len(set(lengths[2:])) == 1
    assert gone == 12


def test_wrong_arguments():
    with pytest.raises(ValueError, match="layer >= 1"):
        PyramidDrop(layer=0)
    with pytest.raises(ValueError, match="cuts=0"):
        PyramidDrop(cuts=0)
    with pytest.raises(ValueError, match="layers=1"):
        pyramiddrop(layers=1)
