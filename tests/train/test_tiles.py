"""Images cut into tiles: any LLaVA-NeXT is taught like a LLaVA, whatever layouts meet in a batch."""

from __future__ import annotations

import pytest
import small
import torch
from processors import image, llava_next, processor
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from foveate import evaluate
from foveate.evaluate.costs import probes
from foveate.train import Collator, Record, Turn, run
from foveate.train.model import load

SAMPLERS = {"keep": 0.5, "hidden": 8, "sampled": [0.3, 1.0]}
SIZES = [(64, 30), (30, 64), (60, 60), (64, 17), (40, 40)]  # one of two tiles, the next of four …
POINTS = [[32, 64], [64, 32], [64, 64]]


def record(*sizes: tuple[int, int], words: str = "What is in the picture?") -> Record:
    """A question about images of these sizes."""
    some = tuple(image(n, *size) for n, size in enumerate(sizes))
    turns = (Turn("user", "<image>\n" * len(some) + words), Turn("assistant", "A red cat."))
    return Record("a", some, turns, "set.json, line 7")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of a LLaVA-NeXT of random weights, and its processor."""
    folder, made = tmp_path_factory.mktemp("next"), llava_next()
    words = made.tokenizer
    config = LlavaNextConfig(
        vision_config=small.vision(),
        text_config=small.speaker(len(words), eos_token_id=words.eos_token_id),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=POINTS,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def recipe(place, **changes):
    """One step of four records, with both samplers."""
    some = {"batch": 4, "micro_batch": 4, "steps": 1, "order": "sequential"}
    method = {"method": "focusllava", "arguments": SAMPLERS}
    return small.card(place, place, **{**some, **method, **changes})


ROWS = [record(size) for size in SIZES[:4]]


@pytest.mark.parametrize("padding", ["right", "left"])
def test_layouts_of_a_batch_are_told(padding):
    """Every image brings its size; each has as many placeholders as its layout has patches and newlines."""
    rows = [record(SIZES[0]), record(*SIZES[1:3], words="Both?"), record(SIZES[3])]
    made = processor("llava_next")
    batch = Collator(made, padding=padding)(rows)
    heights = [[height, width] for width, height in SIZES[:4]]
    assert batch["image_sizes"].tolist() == heights
    assert batch["pixel_values"].shape[:2] == (4, 5)  # the overview and up to four tiles
    held = (batch["input_ids"] == made.image_token_id).sum(1).tolist()
    alone = [Collator(made)([row])["input_ids"] for row in rows]
    assert held == [int((ids == made.image_token_id).sum()) for ids in alone]
    assert len({*held}) == 3  # ragged
    asked, taught = batch["instruction_mask"], batch["labels"] != -100
    images = batch["input_ids"] == made.image_token_id
    assert not (asked & images).any() and not (asked & taught).any()
    for row, rec in enumerate(rows):
        words = made.tokenizer.decode(batch["input_ids"][row][asked[row]])
        assert words.split() == rec.turns[0].text.replace("<image>", "").split()
        told = made.tokenizer.decode(batch["input_ids"][row][taught[row]])
        assert told.split()[-1].endswith("cat.</s>")


def test_draws_are_those_of_an_image_in_any_micro_batch(place, tmp_path):
    """However many tiles stand beside it, an image's scales and share are its own."""
    whole = run(recipe(place), tmp_path / "whole", ROWS)
    parts = run(recipe(place, micro_batch=1), tmp_path / "parts", ROWS)
    (one,), (other,) = (
        [entry["language_loss"] for entry in document["history"] if "loss" in entry]
        for document in (whole, parts)
    )
    assert other == pytest.approx(one, abs=1e-5)


def test_what_a_layout_keeps_is_counted(place):
    """Newlines are no tokens, but columns: what a batch notes of each prompt is what it has alone."""
    model, made = load(recipe(place, arguments={"only": "vision", "scales": [2]}))
    model.eval()
    asks = [([image(n, *size)], "What is it?") for n, size in enumerate(SIZES[:4])]
    together = evaluate.replies(model, made, asks, 2)
    assert together == [evaluate.replies(model, made, [ask], 2)[0] for ask in asks]
    watched = probes(model, made, asks)
    assert [reply.columns for reply in together] == [load.lengths for load, _ in watched]
    assert [reply.words for reply in together] == [load.text for load, _ in watched]
    wide, tall, whole, low = (reply.kept.steps for reply in together)
    assert wide[1] < wide[0] and len({wide, tall, whole, low}) > 2
    # Two by two of the map becomes one, the overview of 4 × 4 stays.
    assert whole == (16 + 64, 16 + 16) and together[2].before == 16 + 64 + 8
    assert together[2].kept.share == together[2].kept.layer_share == 32 / 80
