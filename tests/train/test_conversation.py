"""Templates followed to the character: what is asked, what is answered, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from processors import ENDS, MAKERS, llava, processor, record

from foveate.chat import Chat, spoken
from foveate.evaluate import prompts
from foveate.train.data import Collator, Record, Turn
from foveate.train.data.plain import Plain


def cut(said, spans) -> list[str]:
    return [said.text[a:b] for a, b in spans]


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


def test_the_text_is_the_templates_own(name):
    made = processor(name)
    said = Chat(made)(record("<image>\nWhat is it?", "A cat.", "Sure?", "Yes."))
    assert cut(said, said.questions) == ["What is it?", "Sure?"]
    assert [words.strip() for words in cut(said, said.answers)] == [
        "A cat." + ENDS[name],
        "Yes." + ENDS[name],
    ]
    if made.chat_template is not None and name != "llava_next":
        turns = ["<image>\nWhat is it?", "A cat.", "Sure?", "Yes."]
        turns = [spoken(("user", "assistant")[n % 2], text) for n, text in enumerate(turns)]
        assert made.apply_chat_template(turns).rstrip() == said.text


def test_an_answer_begins_where_the_prompt_for_it_ends(name):
    """What a trained model is asked with, in evaluation, is what stood before the answers it learnt."""
    made = processor(name)
    said = Chat(made)(record("<image>\nWhat is it?", "A cat."))
    prompt = prompts.prompt(made, "What is it?")
    if name == "onevision":  # its prompt has no space that its turns have
        prompt = prompt.replace("assistant\n", "assistant \n")
    assert said.text[: said.answers[0][0]] == prompt


def test_llavas_form_for_a_processor_without_a_template():
    said = Chat(llava())(record("<image>\nWhat?", "A cat.", "Sure?", "Yes."))
    assert said.text == (
        "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>"
    )


def test_a_template_without_an_end_gets_the_end_token():
    """LLaVA-1.5's and LLaVA-NeXT's templates end an answer with a space."""
    said = Chat(processor("llava_next"))(record("What?", "A cat.", "Sure?", "Yes."))
    assert said.text == "USER: What? ASSISTANT: A cat.</s> USER: Sure? ASSISTANT: Yes.</s>"


def test_white_space_around_images():
    def content(text):
        return [part.get("text", "*") for part in spoken("user", text)["content"]]

    assert content("<image>\nWhat?") == ["*", "What?"]
    assert content("What?\n<image>") == ["What?", "*"]
    assert content("<image>\n<image>\n A?\n") == ["*", "*", "A?"]
    assert content(" A: <image>\nB: <image>\nSame?") == ["A: ", "*", "\nB: ", "*", "\nSame?"]
    assert content("<image>") == ["*"]
    assert content("  no image ") == ["no image"]


@pytest.mark.parametrize("word", ["user", "assistant", "USER", " ", "A", "<", "\n", ":", "im_end"])
def test_words_of_the_template_in_what_is_said(name, word):
    """They are found where they are said, not where the template says them."""
    texts = (f"{word}?", f"{word}!", f"<image> {word} ?", f"{word} .")
    said = Chat(processor(name))(record(*texts))
    asked = [f"{word}?".strip(), f"{word} ?".strip()]
    assert cut(said, said.questions) == asked
    ends = [words.strip() for words in cut(said, said.answers)]
    assert ends == [text.strip() + ENDS[name] for text in (texts[1], texts[3])]
    before = [said.text[:a].rstrip()[-1] for a, _ in said.questions]
    assert all(character in ":>rn" for character in before)  # "user", "USER:", "<image>", …


def test_plain_is_images_and_caption():
    said = Plain(processor("llava"))(record("<image>\nDescribe it.", " A cat.\n"))
    assert said.text == "<image>A cat.</s>"
    assert said.questions == () and cut(said, said.answers) == ["A cat.</s>"]
    with pytest.raises(ValueError, match=r"line 7: template='plain' wants one caption, not 2"):
        Plain(processor("llava"))(record("<image>", "A cat.", "Sure?", "Yes."))


SYSTEM = {
    "llava": "Be brief. USER: ",
    "onevision": "<|im_start|>system \nBe brief.<|im_end|><|im_start|>user ",
    "llava_next": "SYSTEM: Be brief. USER: ",
    "qwen2_5_vl": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n",
    "idefics3": "<|im_start|>System: Be brief.<end_of_utterance>\nUser:",
    "gemma3": "<bos><start_of_turn>system\nBe brief.<end_of_turn>\n<start_of_turn>user\n",
}


@pytest.mark.parametrize("name", SYSTEM)
def test_a_system_turn_is_read_and_neither_asked_nor_learnt(name):
    made, talk = processor(name), record("<image>\nWhat is it?", "A cat.")
    told = replace(talk, turns=(Turn("system", "Be brief."), *talk.turns))
    said = Chat(made)(told)
    assert said.text.startswith(SYSTEM[name])
    assert cut(said, said.questions) == ["What is it?"]
    assert [words.strip() for words in cut(said, said.answers)] == ["A cat." + ENDS[name]]
    batch, bare = Collator(made)([told]), Collator(made)([talk])
    for column, empty in (("labels", -100), ("instruction_mask", False)):
        ours, theirs = (
            one["input_ids"][0][one[column][0] != empty].tolist() for one in (batch, bare)
        )
        assert ours == theirs
    assert Plain(made)(told) == Plain(made)(talk)


REFUSING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}"
    "{% else %}{{ m['content'][-1]['text'] }}</s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            lambda: processor("embedded"),
            "knows no system turn and writes it as an answer: leave it out",
        ),
        (lambda: llava(REFUSING), "refuses the conversation: no system here"),
        (lambda: llava(REFUSING.replace("raise_exception", "'' and ")), "leaves out or repeats"),
    ],
    ids=["as an answer", "refuses", "leaves out"],
)
def test_a_template_without_a_system_turn_says_so(made, says):
    turns = (Turn("system", "Be brief."), Turn("user", "What?"), Turn("assistant", "A cat."))
    with pytest.raises(ValueError, match=says) as caught:
        Collator(made())([Record("a", (), turns, "set.json, line 7")])
    assert str(caught.value).startswith("set.json, line 7: the chat template ")


UNFAITHFUL = {
    "rewrites": "{{ m['content'][0]['text'] | upper }}</s>",
    "leaves out": "</s>",
    "does not end": "{{ m['content'][0]['text'] }}{{ '</s>' if loop.last else ' ' }}",
}


@pytest.mark.parametrize("what", UNFAITHFUL)
def test_a_template_that_cannot_be_followed_is_an_error(what):
    made = llava("{% for m in messages %}" + UNFAITHFUL[what] + "{% endfor %}")
    with pytest.raises(ValueError, match=f"the chat template {what}"):
        Chat(made)(record("What?", "A cat.", "Sure?", "Yes."))


def test_no_end_token_is_an_error():
    made = llava()
    made.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        Chat(made)
