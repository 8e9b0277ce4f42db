"""A ladder in `generate`: prompts climb apart, each as it would alone, and the tower runs once."""

from __future__ import annotations

import copy

import pytest
import torch
from calling import greedy
from families import ONE, SHORT, TEXT, TWO, VIDEO_AND_IMAGE, Llava
from families.prompts import EOS
from probes import made

import foveate
from foveate import FastV, Fovea, Stride, VisionZip
from foveate.hosts import attach, traits
from foveate.hosts.climbing import entropy

KEEPS = [3, 6, 1.0]
METHODS = {
    "stride": lambda: Stride(3),
    "fastv": lambda: FastV(3, layer=1),
    "visionzip": lambda projected=False: VisionZip(3, projected=True),
    "by the question": lambda width: Fovea(3, "question", "mean", width, hidden=8),
}


def rungs(model, method, inputs):
    """By row what it says on each rung, and how much its first token is in doubt: (R, B, …)."""
    found = []
    for keep in KEEPS:
        foveate.restore(model)
        if keep != 1.0:
            foveate.compress(model, method.but(keep=keep))
        scored = {"return_dict_in_generate": True, "output_scores": True}
        found.append(greedy(model, inputs, 4, eos_token_id=EOS, **scored))
    foveate.restore(model)
    doubts = torch.stack([entropy(out.scores[0]) for out in found])
    return [out.sequences for out in found], doubts


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_prompts_of_a_batch_climb_apart(model, family, name):
    first = VIDEO_AND_IMAGE if family.takes_video else ONE
    inputs = family.inputs((first, SHORT, TWO, TEXT))
    asked = torch.zeros_like(inputs["input_ids"])
    asked[:, -2:] = 1
    method, bare = made(METHODS[name], family), greedy(model, inputs, 4)
    with foveate.instruction(asked):
        said, doubts = rungs(model, method, inputs)
        threshold = float(doubts[:2, :3].flatten().sort()[0][2:4].mean())
        sure = (doubts <= threshold) | torch.tensor([[False] * 3 + [True]])  # words alone stay
        rung = [next((n for n in range(2) if sure[n, row]), 2) for row in range(4)]
        assert len({*rung[:3]}) > 1
        attach.compress(model, method, ladder={"keeps": KEEPS, "threshold": threshold})
        looks = []
        handles = [
            tower.register_forward_hook(lambda *given: looks.append(1))
            for tower in traits.towers_of(model.model)
        ]
        greedy(model, inputs, 4, eos_token_id=EOS)
        once = len(looks)
        got = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=EOS)
        for handle in handles:
            handle.remove()
    assert once == len(looks) - once
    for row in range(4):
        want = said[rung[row]][row]
        assert torch.equal(got[row], want[: got.shape[1]])
    foveate.restore(model)
    assert torch.equal(greedy(model, inputs, 4), bare)


@pytest.fixture
def obeying():
    model = Llava().model()
    ladder = {"keeps": KEEPS, "threshold": 1.0, "risk": 0.02}
    return attach.compress(model, Stride(3), ladder=ladder)


def test_a_ladder_is_saved_with_the_model(obeying, tmp_path):
    inputs = Llava().inputs((ONE, SHORT))
    want = greedy(obeying, inputs, 4)
    assert torch.equal(greedy(copy.deepcopy(obeying), inputs, 4), want)
    with foveate.compressed(obeying, FastV(2)):
        assert "ladder" not in obeying.config.visual_compression
    assert torch.equal(greedy(obeying, inputs, 4), want)
    obeying.save_pretrained(tmp_path)
    back = foveate.from_pretrained(str(tmp_path))
    assert back.generate.described == {"risk": 0.02, "keeps": KEEPS, "threshold": 1.0}
    assert torch.equal(greedy(back, inputs, 4), want)
    foveate.compress(back, Stride(3))  # one budget, and no ladder
    assert "generate" not in vars(back) and "ladder" not in back.config.visual_compression


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"do_sample": True}, "sampling, beams"),
        ({"num_beams": 2}, "sampling, beams"),
        ({"return_dict_in_generate": True}, "climb apart"),
        ({"streamer": object()}, "streamer with a ladder"),
    ],
)
def test_what_a_ladder_is_not_shown_for_is_refused(obeying, how, words):
    with pytest.raises(ValueError, match=words):
        obeying.generate(**Llava().inputs((ONE,)), max_new_tokens=2, **how)


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"keeps": [], "threshold": 1.0}, "want budgets"),
        ({"keeps": ["a"], "threshold": 1.0}, "want budgets"),
        ({"keeps": [3, 1.0], "threshold": "x"}, "want nats"),
        ({"keeps": [3, 1.0], "threshold": float("nan")}, "want nats"),
        ({"keeps": 3, "threshold": 1.0}, "want budgets"),
        ({"keeps": [3, 1.0], "threshold": 1.0, "fingerprint": "0"}, "calibrated for another model"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(described, words):
    model = Llava().model()
    with pytest.raises(ValueError, match=words):
        attach.compress(model, Stride(3), ladder=described)
    assert not foveate.is_compressed(model)


def test_a_rung_that_cannot_go_on_from_what_the_first_read_says_so():
    model, inputs = Llava().model(), Llava().inputs((ONE,))
    attach.compress(model, VisionZip(3), ladder={"keeps": KEEPS, "threshold": 0.0})
    with pytest.raises(ValueError, match=r"VisionZip acts .*cannot go on"):
        greedy(model, inputs, 2)
    attach.compress(model, VisionZip(3), ladder={"keeps": KEEPS[:2], "threshold": 0.0})
    got = greedy(model, inputs, 2)
    assert torch.equal(got, greedy(foveate.compress(model, VisionZip(6)), inputs, 2))
