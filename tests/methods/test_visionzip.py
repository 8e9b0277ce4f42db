"""VisionZip, arXiv:2412.04467."""

import pytest
import torch
from families import ONE, TWO, Llava

import foveate
from foveate import Context, VisionZip, VisualTokens


def test_a_case_by_hand():
    """Budget 3 with one contextual token: two dominant; of the rest every third is a target."""
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0]]])
    attention = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]]])
    out = VisionZip(3, contextual=1 / 3)(
        VisualTokens.of(x), Context(cls_attention=attention, keys=keys)
    )
    # Dominant 1 and 3; target 0; 2 and 4 join it: 1 + mean(3, 5).
    assert out.owner.tolist() == [[0, 1, 0, 2, 0]]
    assert out.x[0, :, 0].tolist() == [5.0, 2.0, 4.0]


def test_each_joins_the_target_with_the_most_similar_key():
    torch.manual_seed(0)
    x, keys, attention = torch.randn(2, 30, 4), torch.randn(2, 30, 4), torch.rand(2, 30)
    out = VisionZip(12, contextual=4 / 12)(
        VisualTokens.of(x), Context(cls_attention=attention, keys=keys)
    )
    assert out.counts.tolist() == [12, 12]
    unit = torch.nn.functional.normalize(keys, dim=-1)
    for row in range(2):
        dominant = set(attention[row].topk(8).indices.tolist())
        rest = [i for i in range(30) if i not in dominant]
        targets = rest[:: len(rest) // 4][:4]
        for i in rest:
            if i not in targets:
                nearest = max(targets, key=lambda t: float(unit[row, i] @ unit[row, t]))
                assert out.owner[row, i] == out.owner[row, nearest]
        for t in targets:
            joined = [i for i in rest if i != t and out.owner[row, i] == out.owner[row, t]]
            want = x[row, t] + (x[row, joined].mean(0) if joined else 0)
            torch.testing.assert_close(out.x[row, out.owner[row, t]], want)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_reads_the_class_tokens_row_of_the_block_before_the_feature(attention):
    family = Llava()
    inputs = family.inputs((ONE, TWO))
    model = family.model("eager")
    with torch.no_grad():
        tower = model.model.vision_tower(inputs["pixel_values"], output_attentions=True)
        want = tower.attentions[2].mean(1)[
            :, 0, 1:
        ]  # hidden state -2 of 4 blocks is made by block 2
        model = foveate.compress(family.model(attention), VisionZip(6))
        with foveate.trace(model) as seen:
            model(**inputs)
    torch.testing.assert_close(seen.steps[0].scores, want, atol=1e-6, rtol=1e-5)


def test_the_contextual_share_is_checked():
    with pytest.raises(ValueError, match=r"contextual=1\.0"):
        VisionZip(4, contextual=1.0)
