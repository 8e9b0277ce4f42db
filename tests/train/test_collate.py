"""Batches as models take them: the labels spell the answers and nothing else."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processors import ENDS, MAKERS, image, processor, record

from foveate.train.data import Collator, Record, Turn

BYTES = sorted(MAKERS.keys() - {"embedded"})  # their tokenizers give every text back


MIXED = [
    record("<image>\nWhat is it?", "A red cat."),
    record("No image here.", "Yes.", "Sure?", "No, a dog."),
    record("One <image> or\n<image>?", "Two.", "And <image>\n\nhere?", "The\n\nmat. "),
]


@cache
def collator(name: str, padding: str = "right") -> Collator:
    return Collator(processor(name), padding=padding)


def spelt(name: str, batch, mask, row: int) -> str:
    return processor(name).tokenizer.decode(batch["input_ids"][row][mask[row]])


def squeezed(*texts: str) -> str:
    """Without white space, which templates move about around images and trim."""
    return "".join("".join(texts).split())


def answers(name: str, record: Record) -> str:
    said = [turn.text.strip() + ENDS[name] for turn in record.turns if turn.role == "assistant"]
    return squeezed(*said)


def questions(record: Record) -> str:
    said = [turn.text for turn in record.turns if turn.role == "user"]
    return squeezed(*said).replace("<image>", "")


def test_labels_of_the_embedded_model():
    """Its words are tokens, and what it does not know is one word too."""
    texts = ("<image>\nWhat is the background?", "brick")
    more = ("<image>\nwhat does the sign say?", "A B", "how many red circles are there?", "2")
    batch = collator("embedded")([record(*texts), record(*more)])
    taught = batch["labels"] != -100
    assert spelt("embedded", batch, taught, 0) == "brick </s>"
    assert spelt("embedded", batch, taught, 1) == "A B </s> 2 </s>"
    asked = batch["instruction_mask"]
    assert spelt("embedded", batch, asked, 0) == "what is the background ?"
    assert (batch["input_ids"] == 4).sum() == 2 * 144
    assert set(batch) == {
        "input_ids", "attention_mask", "pixel_values", "labels", "instruction_mask"
    }  # fmt: skip


words = st.text(
    st.sampled_from("Aab ?.\n\té😀<>|:_/s你") | st.characters(codec="utf-8"), min_size=1
)
texts = words.filter(lambda t: t.strip() and "<image>" not in t and "\ue000" not in t)


@st.composite
def conversations(draw) -> Record:
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(texts | st.just("<image>"), min_size=1, max_size=3))
        turns += ["".join(parts), draw(texts)]
    return record(*turns)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    rows=st.lists(conversations(), min_size=1, max_size=3),
    padding=st.sampled_from(["right", "left"]),
)
@example(rows=MIXED, padding="right")
@example(rows=MIXED, padding="left")
@pytest.mark.parametrize("name", BYTES)
def test_labels_spell_the_answers(name, rows, padding):
    """Whatever is said; and the instruction's mask the questions."""
    batch = collator(name, padding)(rows)
    labels, ids, asked = batch["labels"], batch["input_ids"], batch["instruction_mask"]
    taught, real = labels != -100, batch["attention_mask"].bool()
    assert torch.equal(labels[taught], ids[taught])
    for row, rec in enumerate(rows):
        assert squeezed(spelt(name, batch, taught, row)) == answers(name, rec)
        assert squeezed(spelt(name, batch, asked, row)) == questions(rec)
    assert not (asked & taught).any() and not ((asked | taught) & ~real).any()


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_row_of_a_batch_is_the_row_alone(name, padding):
    together = collator(name, padding)(MIXED)
    for row, rec in enumerate(MIXED):
        alone = collator(name)([rec])
        real = together["attention_mask"][row].bool()
        columns = [n for n in together if n in alone and alone[n].shape == alone["labels"].shape]
        assert {"input_ids", "attention_mask", "labels", "instruction_mask"} <= {*columns}
        for column in columns:
            assert torch.equal(together[column][row][real], alone[column][0]), column
        edge = together["attention_mask"][row][0 if padding == "left" else -1]
        assert edge == (len(alone["labels"][0]) == together["labels"].shape[1])


@pytest.mark.parametrize("name", MAKERS)
def test_one_beginning_and_one_end(name):
    """No token of beginning twice, where the template writes it and the tokenizer adds it; nor an end."""
    tokenizer = processor(name).tokenizer
    batch = collator(name)(MIXED)
    for row, rec in enumerate(MIXED):
        real = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        if tokenizer.bos_token_id is not None:
            assert real[0] == tokenizer.bos_token_id and real.count(real[0]) == 1
        end = tokenizer.convert_tokens_to_ids(ENDS[name])
        taught = batch["labels"][row].tolist()
        assert real[-1] == end and taught.count(end) == len(rec.turns) // 2


def test_text_alone_has_no_pixels():
    batch = collator("embedded")([MIXED[1]])
    assert "pixel_values" not in batch
    assert "pixel_values" in collator("embedded")(MIXED[:2])


def test_a_long_answer_is_cut_and_an_image_is_not():
    made, rec = processor("llava"), record("<image>\nWhat?", "A red cat. " * 9)
    whole = Collator(made)([rec])
    n = whole["labels"].shape[1]
    first = int((whole["labels"][0] != -100).nonzero()[0])
    placeholders = int((whole["input_ids"][0] == made.image_token_id).nonzero()[-1])
    for length in (n + 5, n, n - 1, first + 1):
        short = Collator(made, max_length=length)([rec])
        for name in ("input_ids", "labels", "attention_mask", "instruction_mask"):
            assert torch.equal(short[name], whole[name][:, :length])
    for length in (first, placeholders + 1):
        tight = Collator(made, max_length=length)
        with pytest.warns(
            UserWarning, match=rf"line 7: .* column {first + 1}, behind max_length={length}"
        ):
            bare = tight([rec])
        assert (bare["labels"] == -100).all()
        assert torch.equal(bare["input_ids"], whole["input_ids"][:, :length])
        tight([rec, rec])  # warnings are errors: told once
        assert tight.unanswered == 3
    with pytest.raises(
        ValueError,
        match=rf"line 7: images stand up to column {placeholders + 1} of {n}, max_length={placeholders}",
    ):
        Collator(made, max_length=placeholders)([rec])


def test_rows_are_cut_before_they_are_padded():
    rows = [record("What?", "No. " * 50), record("What?", "A cat.")]
    batch = Collator(processor("llava"), max_length=30, padding="left")(rows)
    assert batch["input_ids"].shape == (2, 30)
    assert batch["attention_mask"][0].all() and not batch["attention_mask"][1].all()
    assert squeezed(spelt("llava", batch, batch["labels"] != -100, 1)) == "Acat.</s>"


def test_plain_learns_the_caption():
    made = Collator(processor("llava"), template="plain")
    batch = made([record("<image>\nDescribe it.", "A cat."), record("<image>", "On the mat.")])
    assert spelt("llava", batch, batch["labels"] != -100, 0) == "A cat.</s>"
    assert spelt("llava", batch, batch["labels"] != -100, 1) == "On the mat.</s>"
    assert not batch["instruction_mask"].any()
    text = processor("llava").tokenizer.decode(batch["input_ids"][0]).replace("<image>", "")
    assert text.replace("<pad>", "") == "<s>A cat.</s>"


@pytest.mark.parametrize("name", BYTES)
def test_plain_tells_the_users_words_beside_the_text(name):
    """As LLaVA's pre-training has them, behind the image or before it; some say nothing."""
    asked = [
        "<image>\nDescribe it.",
        " Give a brief\ndescription. \n<image>",
        "<image>",
        "A <image> B",
    ]
    rows = [record(words, "A cat.") for words in asked]
    batch = Collator(processor(name), template="plain", padding="left")(rows)
    ids = batch["instruction_ids"]
    real = ids != -100
    spelt = [processor(name).tokenizer.decode(row[row != -100]) for row in ids]
    want = ["Describe it.", "Give a brief\ndescription.", "", "A B"]
    assert [words.strip() for words in spelt] == want
    assert ids.shape[1] == real.sum(1).max() and not real[2].any()
    assert (real[:, :-1] >= real[:, 1:]).all()  # padded behind, whatever the side of the text
    special = {processor(name).tokenizer.bos_token_id, processor(name).tokenizer.eos_token_id}
    assert special.isdisjoint(ids[real].tolist())
    assert not batch["instruction_mask"].any()


def test_nobody_says_a_word():
    batch = Collator(processor("llava"), template="plain")([record("<image>", "A cat.")] * 2)
    assert batch["instruction_ids"].shape == (2, 0) and batch["instruction_ids"].dtype == torch.long
    assert "instruction_ids" not in Collator(processor("llava"))([record("<image>", "A cat.")])


def test_words_behind_the_caption_are_not_beside_it():
    turns = (Turn("user", "<image> What?"), Turn("assistant", "A cat."), Turn("user", "Sure?"))
    rec = Record("a", (image(0),), turns, "made, 1")
    ids = Collator(processor("llava"), template="plain")([rec])["instruction_ids"]
    assert processor("llava").tokenizer.decode(ids[0]) == "What?"


def test_a_picture_that_is_gone_names_its_record(tmp_path):
    rec = replace(MIXED[0], images=(tmp_path / "gone.png",))
    with pytest.raises(OSError, match=r"set\.json, line 7: .*gone\.png"):
        collator("llava")([rec])


def test_marks_that_are_no_images_are_an_error():
    for rec in (replace(MIXED[0], images=()), record("A <|image_pad|>?", "Yes.")):
        with pytest.raises(ValueError, match=r"line 7: 1 times <\|image_pad\|>.* 0 images"):
            collator("qwen2_5_vl")([rec])


class Meddling:
    """A processor that writes something of its own in front of every text."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    def __call__(self, text, **kwargs):
        return self.inner(text=["Hello. " + t for t in text], **kwargs)


def test_a_processor_that_changes_the_text_is_an_error():
    with pytest.raises(ValueError, match="its labels cannot be found"):
        Collator(Meddling(processor("llava")))([MIXED[0]])


@pytest.mark.parametrize("wrong", [{"template": "plane"}, {"padding": "middle"}, {"max_length": 0}])
def test_wrong_arguments_say_what_is_allowed(wrong):
    with pytest.raises(ValueError, match="want") as caught:
        Collator(processor("llava"), **wrong)
    assert str(*wrong.values()) in str(caught.value)


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"qwen2_5_vl"}))
def test_it_travels_to_workers(name):
    again = pickle.loads(pickle.dumps(collator(name)))
    want, found = collator(name)(MIXED), again(MIXED)
    assert all(torch.equal(want[key], found[key]) for key in want)
