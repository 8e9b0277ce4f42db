"""From pictures and words to words: a processor, transformers' pipeline, streamers."""

from __future__ import annotations

from threading import Thread

import pytest
from calling import greedy
from families import FAMILIES
from families.prompts import BOS, EOS, IMAGE, PAD, VOCABULARY
from probes import image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

import foveate
from foveate import Chain, FastV, Stride

WORDS = {PAD: "<pad>", EOS: "</s>", BOS: "<s>", IMAGE: "<image>"}
TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}w5{% endif %}"
)
SQUARE = {"height": 32, "width": 32}
METHODS = {
    "stride": lambda: Stride(5),
    "fastv": lambda: FastV(3, layer=2),
    "both": lambda: Chain(Stride(10), FastV(0.3, layer=2)),
}


@pytest.fixture(scope="module")
def processor():
    """A whole processor made here: a word is `w` and its id, a picture is scaled to 32 x 32."""
    vocabulary = {WORDS.get(i, f"w{i}"): i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return LlavaProcessor(
        CLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            additional_special_tokens=["<image>"],
            padding_side="left",
        ),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


@pytest.fixture(params=METHODS)
def llava(request):
    return foveate.compress(FAMILIES["llava"].model(), METHODS[request.param]())


PROMPTS = [(image(1), "w10 w11"), (image(2), "w12 w13 w14 w15"), (image(3), "w10 w11")]
OPTIONS = {"max_new_tokens": 6, "do_sample": False}


def chat(shown, words: str) -> list[dict]:
    content = [{"type": "image", "image": shown}, {"type": "text", "text": words}]
    return [{"role": "user", "content": content}]


def asked(processor, shown, words: str):
    """The inputs of one prompt."""
    return processor(images=shown, text=f"<image> {words} w5", return_tensors="pt")


def by_hand(model, processor, shown, words: str, n: int = 6) -> list[str]:
    """The words of one prompt's answer, through the processor and generate."""
    inputs = asked(processor, shown, words)
    assert (inputs["input_ids"] == IMAGE).sum() == 16
    out = greedy(model, inputs, n)
    said = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said.split()


def through_pipeline(model, processor, prompts, **more) -> list[list[str]]:
    """The words of each prompt's answer, alone or in batches."""
    pipe = pipeline("image-text-to-text", model=model, processor=processor, **more)
    options = {"return_full_text": False, "generate_kwargs": OPTIONS}
    found = pipe(text=[chat(*prompt) for prompt in prompts], **options)
    return [one[0]["generated_text"].split() for one in found]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pipeline_answers_what_generate_answers(llava, processor, batch_size):
    """Prompts of several lengths in a batch, so there is padding on the left."""
    want = [by_hand(llava, processor, *p) for p in PROMPTS]
    assert len(set(map(tuple, want))) == 3  # or nothing here says anything
    assert through_pipeline(llava, processor, PROMPTS, batch_size=batch_size) == want
    left = {"Stride": 5, "FastV": 3, "Chain": 3}[type(llava.model.visual_compressor).__name__]
    assert foveate.last_counts(llava) == [left] * batch_size


def test_a_pipeline_shows_the_question_as_it_was(llava, processor):
    """The full text is cut by the length of the prompt, which compression may not change."""
    pipe = pipeline("image-text-to-text", model=llava, processor=processor)
    found = pipe(images=[image(1)], text="<image> w10 w11 w5", generate_kwargs=OPTIONS)
    answer = by_hand(llava, processor, *PROMPTS[0])
    assert found[0]["generated_text"].split() == ["<image>", "w10", "w11", "w5", *answer]


class Collected(TextStreamer):
    """What a streamer would have printed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pieces = []

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.pieces.append(text)


def streamed(model, processor, prompt, n: int):
    """The pieces of an answer that another thread writes, as they come."""
    streamer = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60
    )
    inputs = asked(processor, *prompt)
    thread = Thread(target=greedy, args=(model, inputs, n), kwargs={"streamer": streamer})
    thread.start()
    yield from streamer
    thread.join()


def test_streamers_say_the_same_words(llava, processor):
    want = by_hand(llava, processor, *PROMPTS[0])
    printed = Collected(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    greedy(llava, asked(processor, *PROMPTS[0]), 6, streamer=printed)
    assert "".join(printed.pieces).split() == want and len(printed.pieces) > 2


def test_a_stream_read_while_another_prompt_is_answered(llava, processor):
    """A server: one thread writes, another asks something else meanwhile."""
    other = by_hand(llava, processor, image(2), "w20", n=3)
    want, pieces = by_hand(llava, processor, *PROMPTS[0], n=12), []
    for piece in streamed(llava, processor, PROMPTS[0], 12):
        pieces.append(piece)
        assert by_hand(llava, processor, image(2), "w20", n=3) == other
    assert "".join(pieces).split() == want


def test_a_processor_of_fewer_words_is_saved_and_loaded_beside_the_model(
    llava, processor, tmp_path
):
    """The folder of a compressed model is all that a pipeline needs."""
    llava.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    back = foveate.from_pretrained(tmp_path)
    back.generation_config.eos_token_id = None
    found = through_pipeline(back, AutoProcessor.from_pretrained(tmp_path), PROMPTS[:1])
    assert found == [by_hand(llava, processor, *PROMPTS[0])]
