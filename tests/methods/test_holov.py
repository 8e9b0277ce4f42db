"""HoloV, arXiv:2510.02912."""

import pytest
import torch
from methods_by_hand import kept, looked_at, ragged
from test_groups import shared

from foveate import Context, HoloV, VisualTokens


def crops_of(N, crops):
    """The runs: the first ones are longer by one where they do not divide."""
    sizes = [N // crops + (i < N % crops) for i in range(crops)]
    return [list(range(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in range(crops)]


def holistic(x, attention, n, crops, diversity):
    """Crop by crop and token by token."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    parts, varied = crops_of(len(x), crops), [0.0] * len(x)
    for part in parts:
        for i in part if len(part) > 1 else ():
            alike = [0.0 if i == j else float(unit[i] @ unit[j]) for j in part]
            mean = sum(alike) / (len(part) - 1)
            varied[i] = sum((a - mean) ** 2 for a in alike) / (len(part) - 1)
    scale = float(attention.sum()) / max(sum(varied), 1e-12)
    score = [float(a) + diversity * scale * v for a, v in zip(attention, varied, strict=True)]
    weight = [sum(score[i] for i in part) / max(len(part), 1) for part in parts]
    share = shared(n, weight, [len(part) for part in parts])
    return sorted(
        i for part, m in zip(parts, share, strict=True) for i in looked_at(attention, m, part)
    )


@pytest.mark.parametrize("diversity", [0.0, 0.09, 3.0])
@pytest.mark.parametrize("crops", [1, 4, 7])
def test_crops_share_the_budget(crops, diversity):
    """Where crops are not equal, and where there are more crops than tokens."""
    lengths = [36, 29, 3]
    tokens, attention = ragged(lengths)
    for n in (1, 5, 20, 36):
        out = HoloV(n, crops, diversity)(tokens, Context(cls_attention=attention))
        for b, length in enumerate(lengths):
            x, a = tokens.x[b, :length], attention[b, :length]
            assert kept(out, b) == holistic(x, a, min(n, length), crops, diversity)


def test_a_crop_that_is_looked_at_less_still_has_its_share():
    """Of 4 tokens, 20 : 5 : 4 gives 2.8, 0.7, 0.6, so 3 and 1; attention alone takes the first crop."""
    attention = torch.tensor([[0.2] * 4 + [0.05] * 4 + [0.04] * 4])
    tokens = VisualTokens.of(torch.eye(12)[None])
    out = HoloV(4, crops=3, diversity=0.0)(tokens, Context(cls_attention=attention))
    assert kept(out) == [0, 1, 2, 4]


def test_the_arguments_are_checked():
    with pytest.raises(ValueError, match="crops=0"):
        HoloV(4, crops=0)
    with pytest.raises(ValueError, match="diversity=-1"):
        HoloV(4, diversity=-1)
