"""V2Drop, arXiv:2509.01552."""

import pytest
import torch
from families import FAMILIES, ONE

import foveate
from foveate import Context, V2Drop, VisualTokens, v2drop


def moving(lengths, seed=0):
    """Ragged tokens, and what they were one layer earlier."""
    draw = torch.Generator().manual_seed(seed)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    x, before = (torch.randn(*valid.shape, 4, generator=draw) * valid[..., None] for _ in range(2))
    return VisualTokens.of(x, valid), before


def slowly(now, before, k):
    """The indices of the k vectors that moved farthest, one row, one number after the other."""
    far = []
    for i, (a, b) in enumerate(zip(now.tolist(), before.tolist(), strict=True)):
        far.append((-(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) ** 0.5), i))
    return sorted(i for _, i in sorted(far)[:k])


def test_a_cut_by_hand():
    """Distances 5, 1, 1, 0: of the two that are equal the earlier one stays."""
    now = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]])
    before = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]])
    tokens, context = VisualTokens.of(now), Context(previous=before)
    assert V2Drop(2)(tokens, context).owner.tolist() == [[0, 1, -1, -1]]
    assert V2Drop(1, share=0.5)(tokens, context).owner.tolist() == [[0, 1, -1, -1]]
    assert V2Drop(1)(tokens, context).owner.tolist() == [[0, -1, -1, -1]]
    assert V2Drop(3, share=0.5)(tokens, context).counts.tolist() == [3]


def test_ragged_rows_keep_what_a_plain_loop_keeps():
    lengths = [9, 5, 1]
    tokens, before = moving(lengths)
    out = V2Drop(1, layer=3, share=0.5)(tokens, Context(previous=before))
    for row, n in enumerate(lengths):
        want = slowly(tokens.x[row, :n], before[row, :n], max(1, n // 2))
        kept = [p for p, owner in enumerate(out.owner[row].tolist()) if owner >= 0]
        assert kept == want


@pytest.mark.parametrize(
    ("keep", "counts"),
    [(1, [288, 144, 1]), (64, [288, 144, 64]), (0.5, [288, 288, 288]), (1.0, [576] * 3)],
)
def test_three_cuts_of_the_paper_and_never_below_the_budget(keep, counts):
    tokens, found = VisualTokens.of(torch.randn(2, 576, 3)), []
    method = v2drop(keep)
    assert [part.site.layer for part in method.parts()] == [3, 17, 22]
    for part in method.parts():
        tokens = part(tokens, Context(previous=torch.randn(tokens.x.shape)))
        found.append(tokens.counts.tolist())
    assert found == [[n, n] for n in counts]


def test_depths_scale_to_the_model():
    for layers, want in ((32, [3, 17, 22]), (28, [3, 15, 19]), (5, [1, 3, 3]), (2, [1, 1, 1])):
        assert [part.site.layer for part in v2drop(layers=layers).parts()] == want


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_what_a_layer_was_given_is_let_go_after_the_cut(training):
    """But in training, where a checkpointed layer may ask again."""
    family, flows = FAMILIES["llava"], []
    model = foveate.compress(family.model(), v2drop(4, layers=family.layers)).train(training)
    decoder = model.model.language_model
    decoder.register_forward_pre_hook(
        lambda _, args, kwargs: flows.append(kwargs["visual_flow"]), with_kwargs=True
    )
    model(**family.inputs((ONE,)))
    assert set(flows[0].path.previous) == ({1, 3} if training else set())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="layer >= 1"):
        V2Drop(layer=0)
    for wrong in (-0.1, 1.5, "half", True):
        with pytest.raises(ValueError, match="share="):
            V2Drop(share=wrong)
    with pytest.raises(ValueError, match="layers=1"):
        v2drop(layers=1)
