"""What a method has to beat: smaller pictures, grey ones, what is asked about first, another's question."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate import Context, Fovea, Stride, VisualTokens, compressed, embedded, evaluate
from foveate.evaluate import baselines as room
from foveate.evaluate.baselines import Misled, Oracle, baselines
from foveate.evaluate.comparison import LOWER
from foveate.evaluate.plans import Loaded, Plan
from foveate.evaluate.recall import recall
from foveate.evaluate.work import Work
from foveate.hosts.twins import shrunk
from foveate.patchqa import PatchQA, patches_of


@pytest.fixture(scope="module")
def loaded():
    return Loaded(*embedded.load(), "embedded")


@pytest.fixture(scope="module")
def examples():
    return PatchQA("test").examples(22)


def ran(loaded, examples, name, *keeps):
    plans, skipped = baselines(loaded, [name], keeps, examples)
    assert not skipped
    return Work(loaded, "patchqa", examples, batch_size=8).runs(plans)


@torch.no_grad()
def test_a_smaller_picture_is_seen_as_the_tower_itself_interpolates(loaded, examples):
    """No method needed: half the side is a quarter of the tokens."""
    model, processor = shrunk(loaded.model, loaded.processor, 6)
    inputs = processor(images=examples[0].images[0], text="<image>", return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (48, 48)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 36
    own = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    how = {"interpolate_pos_encoding": True}
    whole = loaded.model.model.get_image_features(inputs["pixel_values"], **how).pooler_output[0]
    torch.testing.assert_close(own, whole)
    assert loaded.model.config.vision_config.image_size == 96  # the first is as it was
    a, b = (next(m.model.language_model.parameters()) for m in (model, loaded.model))
    assert a.data_ptr() == b.data_ptr()


def test_downsampling_costs_what_so_many_tokens_cost(loaded, examples):
    few, more = ran(loaded, examples, "downsample", 0.25, 70)
    assert (few["tokens"], more["tokens"]) == (36, 64)
    assert few["cost"]["total"] < more["cost"]["total"] < 300e6


def test_nobody_answers_from_a_grey_picture(loaded, examples):
    (blind,) = ran(loaded, examples, "blind", 0.5, 0.25)
    assert blind["keep"] == 1.0 and blind["tokens"] == 144
    assert blind["accuracy"]["fine"] == 0 and blind["accuracy"]["overall"] < 0.5


def test_the_oracle_keeps_what_is_asked_about_and_so_many_in_all(loaded, examples):
    some = [e for e in examples if (e.asked[0] > 0).any()][:6]
    keep = 20
    asks = [(e.images, e.question) for e in some]
    method = Oracle(keep, [e.asked[0] for e in some])
    with compressed(loaded.model, method):
        (step,) = evaluate.steps(loaded.model, loaded.processor, asks)
    for row, example in enumerate(some):
        asked = torch.from_numpy(patches_of(example.asked[0])).flatten()
        kept = step.owner[row] >= 0
        assert int(kept.sum()) == keep
        assert kept[asked].all() if int(asked.sum()) <= keep else (asked | ~kept).all()
    (told,) = ran(loaded, examples, "oracle", 36)
    (even,) = Work(loaded, "patchqa", examples).runs([stride(36)])
    assert told["accuracy"]["fine"] > even["accuracy"]["fine"]


def stride(keep):
    return Plan("stride", keep, None, Stride(keep))


def test_what_cannot_be_is_left_out_with_the_reason(loaded, examples):
    blank = [replace(e, asked=()) for e in examples]
    found, skipped = baselines(loaded, LOWER, [0.5], blank)
    assert [one.method for one in found] == ["downsample", "blind"]
    assert "does not know" in skipped[0]["why"]


def test_a_processor_that_takes_any_size_is_given_smaller_pictures(loaded, examples):
    """Half the side, a quarter of the placeholders."""
    any_size = copy.deepcopy(loaded.processor)
    any_size.image_processor.do_resize = any_size.image_processor.do_center_crop = False
    halved = room.Through(any_size, lambda image: room.scaled(image, 0.5))
    batch, _ = evaluate.encode(halved, [(examples[0].images, examples[0].question)])
    assert batch["pixel_values"].shape[-2:] == (48, 48)
    assert int((batch["input_ids"] == loaded.model.config.image_token_id).sum()) == 36
    assert room.scaled(examples[0].images[0], 0.001).size == (1, 1)
    assert halved.tokenizer is any_size.tokenizer


def test_another_question_is_told():
    """Two prompts: each is split where the other asks."""
    torch.manual_seed(0)
    method = Fovea(5, "question", "mean", 8, hidden=8)
    x, text = torch.randn(2, 16, 8), torch.randn(2, 3, 8)
    grid = torch.tensor([[(0, r, c) for r in range(4) for c in range(4)]] * 2)
    said = torch.ones(2, 3, dtype=torch.bool)
    own = Context(grid=grid, text=text, text_mask=said)
    other = Context(grid=grid, text=text.flip(0), text_mask=said)
    tokens = VisualTokens.of(x)
    assert torch.equal(Misled(method)(tokens, own).x, method(tokens, other).x)


def test_recall_is_what_an_asked_patch_has_left_of_a_token():
    asked = np.zeros((32, 32), dtype=np.uint8)
    asked[:8, :24] = 1  # three patches of eight pixels
    grid = torch.tensor([(0, r, c) for r in range(4) for c in range(4)])
    owner = torch.arange(16)
    assert recall([asked], [(owner, grid)]) == 1
    owner[0], owner[1:3] = -1, 1  # one dropped, two in one
    assert recall([asked], [(owner, grid)]) == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert recall([np.zeros_like(asked)], [(owner, grid)]) is None and recall([], []) is None


def test_a_run_tells_how_much_of_what_is_asked_is_left(loaded, examples):
    (oracle,) = ran(loaded, examples, "oracle", 36)
    (even,) = Work(loaded, "patchqa", examples).runs([stride(36)])
    (bare,) = Work(loaded, "patchqa", examples).runs([Plan("identity", 1.0)])
    assert 0.1 < even["recall"] < 0.5 < oracle["recall"] <= 1 and bare["recall"] is None


def test_the_switches_of_the_host_are_settings_in_python_too(loaded, examples):
    how = {"task": examples, "limit": 11, "max_new_tokens": 2}
    plain, merged = (
        evaluate.evaluate(loaded.model, loaded.processor, "stride", keep=16, **how, **more)
        for more in ({}, {"dropped": "merged", "attention": "proportional"})
    )
    assert merged["job"]["dropped"] == "merged" and merged["job"]["attention"] == "proportional"
    assert plain["tokens"] == merged["tokens"] == 16
    assert merged["recall"] < 1 and plain["recall"] != merged["recall"]
    rows = evaluate.compare(loaded.model, loaded.processor, "stride", [16], **how, dropped="merged")
    assert rows["runs"][-1]["tokens"] == 16
    with pytest.raises(ValueError, match="dropped='lost'"):
        evaluate.evaluate(loaded.model, loaded.processor, "stride", keep=4, **how, dropped="lost")
