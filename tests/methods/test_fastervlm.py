"""FasterVLM, arXiv:2412.01818."""

import torch
from methods_by_hand import looked_at

from foveate import Context, VisionZip, VisualTokens, fastervlm


def test_it_keeps_what_the_class_token_looks_at_and_changes_nothing():
    x, attention = torch.randn(2, 12, 3), torch.rand(2, 12)
    out = fastervlm(5)(VisualTokens.of(x), Context(cls_attention=attention, keys=x))
    for b in range(2):
        kept = (out.owner[b] >= 0).nonzero()[:, 0].tolist()
        assert kept == looked_at(attention[b], 5)
        assert torch.equal(out.x[b], x[b, kept])


def test_it_is_visionzip_by_another_name():
    method = fastervlm(keep=7, per_view=True)
    assert str(method) == "fastervlm(keep=7, per_view=True)"
    assert repr(method) == repr(VisionZip(7, contextual=0.0, per_view=True))
