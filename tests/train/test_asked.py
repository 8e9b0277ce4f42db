"""What the user asks is found by training and by evaluation alike, and told to whoever reads it."""

from __future__ import annotations

import pytest
import torch
from probes import Looks
from processors import MAKERS, image, llava, processor
from transformers import ByT5Tokenizer

import foveate
from foveate import FastV, embedded, evaluate
from foveate.core.compressor import language
from foveate.train import Collator, Record, Turn

LONG = "Is a red dog, or a cat, on the mat?\n\nThe answer is yes, or no."
QUESTIONS = ["What is it?", LONG, "é?"]


def reads() -> Looks:
    """Keeps all, and notes the words it was given of each prompt."""
    return Looks(language(0), ("text", "text_mask"))


def counts(looks) -> list[list[int]]:
    """How many those were, since it was last asked."""
    seen, looks.seen = looks.seen, []
    return [context.text_mask.sum(1).tolist() for _, context in seen]


@pytest.fixture(scope="module")
def model():
    return embedded.load()[0]


def taught(name: str, question: str, images: int) -> torch.Tensor:
    """The ids that training takes for the user's words."""
    turns = (Turn("user", "<image>" * images + question), Turn("assistant", "A cat."))
    some = tuple(image(n) for n in range(images))
    batch = Collator(processor(name))([Record("a", some, turns, "set.json, line 7")])
    return batch["input_ids"][batch["instruction_mask"]]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_evaluation_finds_the_words_that_training_finds(name, images):
    asks = [([image(n) for n in range(images)], question) for question in QUESTIONS]
    batch, mask = evaluate.encode(processor(name), asks)
    assert mask.shape == batch["input_ids"].shape and mask.dtype == torch.bool
    for row, question in enumerate(QUESTIONS):
        ids = batch["input_ids"][row][mask[row]]
        assert torch.equal(ids, taught(name, question, images)), question
        if name != "embedded":  # whose words are all of its task
            spelt = processor(name).tokenizer.decode(ids)
            assert spelt.strip() == question
    assert not mask[batch["attention_mask"] == 0].any()


@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_is_what_it_was_without_a_mask(name):
    """Whoever takes the batch alone gets nothing that a model does not know."""
    batch, _ = evaluate.encode(processor(name), [([image(0)], QUESTIONS[0])])
    assert not {"offset_mapping", "text_replacement_offsets", "instruction_mask"} & {*batch}
    own = {"idefics3", "gemma3"}  # their templates begin the text by themselves
    plain = processor(name)(
        images=[[image(0)]],
        text=[evaluate.prompt(processor(name), QUESTIONS[0])],
        return_tensors="pt",
        add_special_tokens=name not in own,
    )
    assert all(torch.equal(batch[key], plain[key]) for key in {*batch, *plain})


def test_white_space_around_a_question_is_none_of_it():
    batch, mask = evaluate.encode(processor("llava"), [([image(0)], " What is it? \n")])
    assert processor("llava").tokenizer.decode(batch["input_ids"][mask]).strip() == "What is it?"


def test_a_word_of_the_template_is_found_where_it_is_asked():
    batch, mask = evaluate.encode(processor("llava"), [([image(0)], "USER: ASSISTANT:")])
    (columns,) = mask[0].nonzero(as_tuple=True)
    made = processor("llava")
    assert columns.min() > (batch["input_ids"][0] == made.image_token_id).nonzero().max()
    assert made.tokenizer.decode(batch["input_ids"][mask]).strip() == "USER: ASSISTANT:"


LOUD = "{% for m in messages %}<image>{{ m['content'][-1]['text'] | upper }}{% endfor %}"


def slow():
    """A processor whose tokenizer, written in Python, counts no characters."""
    return llava(words=ByT5Tokenizer(extra_ids=0, additional_special_tokens=["<image>"]))


@pytest.mark.parametrize(
    "made",
    [slow, lambda: llava(LOUD)],
    ids=["slow", "rewrites"],
)
def test_without_places_the_whole_prompt_is_read_and_a_reader_warns(made):
    batch, mask = evaluate.encode(made(), [([image(0)], "What is it?")])
    assert mask is None and batch["input_ids"].shape[0] == 1
    told = evaluate.told(reads(), mask)
    with pytest.warns(UserWarning, match="the compressor reads the whole prompt"), told:
        pass
    with evaluate.told(FastV(0.5), mask), evaluate.told(None, mask):
        pass  # warnings are errors


def asks(n: int = 3):
    from foveate.patchqa import PatchQA

    return [(e.images, e.question) for e in PatchQA("test").examples(n)]


def words_of(some) -> list[int]:
    made = processor("embedded").tokenizer
    return [len(made(q, add_special_tokens=False)["input_ids"]) for _, q in some]


def test_answers_and_costs_read_the_question_alone(model):
    """Neither USER nor ASSISTANT, which a compressor reads too where nobody tells it."""
    looks, some = reads(), asks()
    with foveate.compressed(model, looks):
        evaluate.replies(model, processor("embedded"), some, 2)
        assert counts(looks) == [words_of(some)]
        inputs, _ = evaluate.encode(processor("embedded"), some[:1])
        model.generate(**inputs, max_new_tokens=1)
        whole = int((inputs["input_ids"] != model.config.image_token_id).sum())
        assert counts(looks) == [[whole]]
        evaluate.runs.probes(model, processor("embedded"), asks(2))
    assert {tuple(one) for one in counts(looks)} == {(n,) for n in words_of(some[:2])}


def test_rows_that_look_are_the_questions(model):
    """What prompt_attention means is the same as with the mask in the call, as training passes it."""
    looks, some = Looks(language(1), ("prompt_attention",)), asks(2)
    inputs, mask = evaluate.encode(processor("embedded"), some)
    with foveate.compressed(model, looks), torch.no_grad():
        evaluate.replies(model, processor("embedded"), some, 1)
        model(**inputs, instruction_mask=mask)
        model(**inputs)
    asked, told, whole = (context.prompt_attention for _, context in looks.seen)
    assert torch.allclose(asked, told) and not torch.allclose(asked, whole)


def test_who_reads_the_last_row_reads_on_as_before(model):
    """FastV looks from the end of the prompt, which stands behind what the user says."""
    some = asks(2)
    inputs, _ = evaluate.encode(processor("embedded"), some)
    with foveate.compressed(model, FastV(9)), torch.no_grad():
        with foveate.trace(model) as first:
            evaluate.replies(model, processor("embedded"), some, 1)
        with foveate.trace(model) as second:
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert torch.equal(first.steps[0].scores, second.steps[0].scores)


def test_pictures_and_prefills_of_a_comparison_read_it_too(model):
    from foveate.cli.scenes import _seen
    from foveate.cli.work import work as asked
    from foveate.evaluate.plans import Loaded, Plan
    from foveate.tasks.own import task

    loaded = Loaded(model, processor("embedded"), "embedded")
    work = asked(loaded, task("patchqa", 2), 0, 2, 2, True, None)
    want, looks = words_of([(e.images, e.question) for e in work.examples]), reads()
    one = Plan("reads", None, compressor=looks)
    assert [step.before.tolist() for step in _seen(work, one, work.examples)] == [[144, 144]]
    assert counts(looks) == [want]
    assert work._time(one)["pairs"] > 1
    found = counts(looks)
    assert found and all(words == want for words in found)
