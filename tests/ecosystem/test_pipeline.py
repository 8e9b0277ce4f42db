"""From pictures and words to words: a processor, transformers' pipeline, streamers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from families import FAMILIES
from families.prompts import BOS, EOS, IMAGE, PAD, VOCABULARY
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
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
        CLIPImageProcessorPil(
            size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
        ),
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


def picture(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (40, 56, 3), dtype=np.uint8))


def chat(image, words: str) -> list[dict]:
    return [
        {
            "role": "user",
            "content": [{"type": "image", "image": image}, {"type": "text", "text": words}],
        }
    ]


def by_hand(model, processor, image, words: str, n: int = 6) -> str:
    """The answer of one prompt, through the processor and generate."""
    inputs = processor(images=image, text=f"<image> {words} w5", return_tensors="pt")
    assert (inputs["input_ids"] == IMAGE).sum() == 16
    out = model.generate(**inputs, max_new_tokens=n, do_sample=False)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_pipeline_answers_what_generate_answers(llava, processor):
    pipe = pipeline("image-text-to-text", model=llava, processor=processor)
    options = {"max_new_tokens": 6, "do_sample": False}
    prompts = [(picture(1), "w10 w11"), (picture(2), "w12 w13 w14 w15"), (picture(3), "w10 w11")]
    want = [by_hand(llava, processor, *p) for p in prompts]
    assert len(set(want)) == 3  # pictures and words matter, or nothing below says anything
    for (image, words), text in zip(prompts, want, strict=True):
        found = pipe(text=chat(image, words), return_full_text=False, generate_kwargs=options)
        assert found[0]["generated_text"].split() == text.split()
    assert foveate.last_counts(llava) == [len_after(llava)]


def len_after(model) -> int:
    method = model.model.visual_compressor
    return {"Stride": 5, "FastV": 3, "Chain": 3}[type(method).__name__]


def test_a_pipeline_answers_batches(llava, processor):
    """Prompts of several lengths at once, so there is padding on the left."""
    pipe = pipeline("image-text-to-text", model=llava, processor=processor, batch_size=3)
    prompts = [(picture(1), "w10 w11"), (picture(2), "w12 w13 w14 w15"), (picture(3), "w10 w11")]
    want = [by_hand(llava, processor, *p).split() for p in prompts]
    found = pipe(
        text=[chat(*p) for p in prompts],
        return_full_text=False,
        generate_kwargs={"max_new_tokens": 6, "do_sample": False},
    )
    assert [f[0]["generated_text"].split() for f in found] == want
    assert foveate.last_counts(llava) == [len_after(llava)] * 3


def test_a_pipeline_shows_the_question_as_it_was(llava, processor):
    """The full text is cut by the length of the prompt, which compression may not change."""
    pipe = pipeline("image-text-to-text", model=llava, processor=processor)
    found = pipe(
        images=[picture(1)],
        text="<image> w10 w11 w5",
        generate_kwargs={"max_new_tokens": 6, "do_sample": False},
    )
    answer = by_hand(llava, processor, picture(1), "w10 w11")
    assert found[0]["generated_text"].split() == ["<image>", "w10", "w11", "w5", *answer.split()]


class Collected(TextStreamer):
    """What a streamer would have printed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pieces = []

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.pieces.append(text)


def test_streamers_say_the_same_words(llava, processor):
    inputs = processor(images=picture(1), text="<image> w10 w11 w5", return_tensors="pt")
    want = by_hand(llava, processor, picture(1), "w10 w11").split()
    options = {"max_new_tokens": 6, "do_sample": False}
    printed = Collected(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    llava.generate(**inputs, **options, streamer=printed)
    assert "".join(printed.pieces).split() == want and len(printed.pieces) > 2
    streamer = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60
    )
    thread = threading.Thread(
        target=llava.generate, kwargs={**inputs, **options, "streamer": streamer}
    )
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces).split() == want


def test_a_stream_read_while_another_prompt_is_answered(llava, processor):
    """A server: one thread writes, another asks something else meanwhile."""
    other = by_hand(llava, processor, picture(2), "w20", n=3)
    want = by_hand(llava, processor, picture(1), "w10 w11", n=12).split()
    inputs = processor(images=picture(1), text="<image> w10 w11 w5", return_tensors="pt")
    streamer = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60
    )
    options = {"max_new_tokens": 12, "do_sample": False, "streamer": streamer}
    thread = threading.Thread(target=llava.generate, kwargs={**inputs, **options})
    thread.start()
    pieces = []
    for piece in streamer:
        pieces.append(piece)
        assert by_hand(llava, processor, picture(2), "w20", n=3) == other
    thread.join()
    assert "".join(pieces).split() == want


def test_a_processor_of_fewer_words_is_saved_and_loaded_beside_the_model(
    llava, processor, tmp_path
):
    """The folder of a compressed model is all that a pipeline needs."""
    from transformers import AutoProcessor

    llava.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    back = foveate.from_pretrained(tmp_path)
    back.generation_config.eos_token_id = None
    pipe = pipeline(
        "image-text-to-text", model=back, processor=AutoProcessor.from_pretrained(tmp_path)
    )
    found = pipe(
        text=chat(picture(1), "w10 w11"),
        return_full_text=False,
        generate_kwargs={"max_new_tokens": 6, "do_sample": False},
    )
    assert (
        found[0]["generated_text"].split()
        == by_hand(llava, processor, picture(1), "w10 w11").split()
    )
