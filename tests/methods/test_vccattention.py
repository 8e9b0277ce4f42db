"""VCC-attention, a baseline of LLaVolta's paper, arXiv:2406.20092."""

import pytest
import torch

from foveate import Context, VCCAttention, VisualTokens


def test_eighty_one_of_576():
    """36 blocks: 33 means, and 48 tokens of the 3 blocks most looked at."""
    torch.manual_seed(0)
    x, attention = torch.randn(2, 576, 4), torch.rand(2, 576)
    out = VCCAttention()(VisualTokens.of(x), Context(last_attention=attention))
    assert out.counts.tolist() == [81, 81]
    blocks = attention.reshape(2, 36, 16).sum(-1)
    for row in range(2):
        fine = set(blocks[row].topk(3).indices.tolist())
        want = []
        for block in range(36):
            members = x[row, block * 16 : block * 16 + 16]
            want.append(members if block in fine else members.mean(0, keepdim=True))
        torch.testing.assert_close(out.x[row], torch.cat(want))


def attended(*values):
    """Tokens numbered from 0, and what is looked at."""
    x = torch.arange(float(len(values))).reshape(1, -1, 1)
    return VisualTokens.of(x), Context(last_attention=torch.tensor([values]))


def test_a_case_by_hand():
    """The second block of two is looked at most together, though not its first token."""
    tokens, context = attended(0.1, 0.2, 0.0, 0.4, 0.3, 0.0)
    out = VCCAttention(fine=1, block=2)(tokens, context)
    assert out.owner.tolist() == [[0, 0, 1, 2, 3, 3]]
    assert out.x.flatten().tolist() == [0.5, 2.0, 3.0, 4.5]


def test_a_budget_goes_block_by_block():
    """Two means of four; then tokens of the first block, then of the second, most looked at first."""
    tokens, context = attended(0.1, 0.5, 0.2, 0.4, 0.0, 0.3, 0.3, 0.2)
    left = "00001111 01002222 01023333 01234444 01234544 01234564 01234567"
    for keep, owner in enumerate(left.split(), start=2):
        found = VCCAttention(keep, block=4)(tokens, context).owner
        assert found.tolist() == [[int(token) for token in owner]]
    assert torch.equal(VCCAttention(99, block=4)(tokens, context).owner, found)


def test_the_papers_budget_is_the_papers_method():
    torch.manual_seed(1)
    tokens = VisualTokens.of(torch.randn(2, 576, 4))
    context = Context(last_attention=torch.rand(2, 576))
    told, counted = VCCAttention(fine=3), VCCAttention(keep=81)
    one, two = told(tokens, context), counted(tokens, context)
    assert torch.equal(one.owner, two.owner) and torch.equal(one.x, two.x)


def test_every_budget_is_met_exactly():
    """Also with a last block that is shorter, and when all is looked at alike."""
    for attention in (torch.rand(1, 50), torch.full((1, 50), 0.02)):
        tokens = VisualTokens.of(torch.randn(1, 50, 3))
        for keep in range(7, 51):
            method = VCCAttention(keep, block=8)
            assert method(tokens, Context(last_attention=attention)).counts.tolist() == [keep]


def test_less_than_one_token_for_each_block_is_refused():
    tokens, context = attended(*[0.1] * 20)
    for keep in (4, 0.2):
        want = rf"keep={keep} of 20 tokens: 5 blocks of 4 .* want keep >= 5"
        with pytest.raises(ValueError, match=want):
            VCCAttention(keep, block=4)(tokens, context)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="layer >= 1"):
        VCCAttention(layer=0)
    with pytest.raises(ValueError, match="give one"):
        VCCAttention(keep=81, fine=3)
    for wrong in ({"fine": -1}, {"fine": True}, {"block": 0}, {"block": 1.5}):
        with pytest.raises(ValueError, match="want an int"):
            VCCAttention(**wrong)
