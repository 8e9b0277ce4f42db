"""Real processors of several families, each with a byte-level tokenizer made here; nothing is downloaded.

The templates have the shapes that templates in use have: a system prompt of their own (qwen), images
where they stand and a space that depends on them (idefics3), texts behind images and no end token
(llava_next), trimmed texts and the beginning written out (gemma3), another line in front of an answer
than in the prompt for it (onevision).
"""

from __future__ import annotations

from functools import cache

from probes import image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from foveate import embedded
from foveate.train import Record, Turn

WORDS = [
    "user User assistant Assistant model system You are a helpful assistant. USER: ASSISTANT:",
    "What is in the picture? A cat sits on the mat.\n\nThe answer is yes, no, or a red dog.",
]

QWEN = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS3 = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
IMAGES = "{% for part in m['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
LLAVA_NEXT = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    + IMAGES
    + "{% for part in m['content'] "
    "if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ONEVISION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}" + IMAGES + "{% for part in "
    "m['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' }}"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}{{ '\n' }}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


class ImagesOnly(Qwen2_5_VLProcessor):
    """Without the video processor, which needs more than this environment has."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument is not None:
            return super().check_argument_for_proper_class(argument_name, argument)
        return None


def tokenizer(*special: str, eos: str, bos: str | None = None, both: bool = False, **more):
    """Byte pairs learnt from a few sentences; `both` puts the end token behind every text too."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(WORDS * 9, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A {eos}" if both else f"{bos} $A",
            special_tokens=[(token, made.token_to_id(token)) for token in (bos, eos)],
        )
        more["bos_token"] = bos
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token=eos, padding_side="left", **more
    )


def square_of(pixels: int) -> dict[str, dict[str, int]]:
    return {name: {"height": pixels, "width": pixels} for name in ("size", "crop_size")}


def qwen2_5_vl():
    special = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    words = tokenizer(*(f"<|{name}|>" for name in special), eos="<|im_end|>")
    sizes = {"shortest_edge": 56 * 56, "longest_edge": 4 * 56 * 56}
    return ImagesOnly(Qwen2VLImageProcessorPil(size=sizes), words, chat_template=QWEN)


def idefics3():
    names = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>")
    words = tokenizer(*names, "<global-img>", bos=names[0], eos=names[1])
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    return Idefics3Processor(images, words, image_seq_len=4, chat_template=IDEFICS3)


def llava_next():
    words = tokenizer("<s>", "</s>", "<image>", bos="<s>", eos="</s>", both=True)
    points = [[32, 64], [64, 32], [64, 64]]
    images = LlavaNextImageProcessorPil(**square_of(32), image_grid_pinpoints=points)
    return LlavaNextProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_NEXT,
    )


def llava(template: str | None = None, words=None):
    """Without a template of its own, unless one is given; so with another tokenizer."""
    names = ("<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>")
    words = words or tokenizer(*names, bos="<s>", eos="</s>")
    return LlavaProcessor(
        CLIPImageProcessorPil(**square_of(32)),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def gemma3():
    parts = {"boi": "<start_of_image>", "eoi": "<end_of_image>", "image": "<image_soft_token>"}
    names = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", *parts.values())
    extra = {f"{name}_token": token for name, token in parts.items()}
    words = tokenizer(*names, bos="<bos>", eos="<eos>", extra_special_tokens=extra)
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    return Gemma3Processor(images, words, chat_template=GEMMA3, image_seq_length=4)


MAKERS = {
    "embedded": lambda: AutoProcessor.from_pretrained(embedded.PATH),
    "llava": llava,
    "onevision": lambda: llava(ONEVISION),
    "llava_next": llava_next,
    "qwen2_5_vl": qwen2_5_vl,
    "idefics3": idefics3,
    "gemma3": gemma3,
}
ENDS = {  # what an answer ends with
    "embedded": "</s>",
    "llava": "</s>",
    "onevision": "<|im_end|>",
    "llava_next": "</s>",
    "qwen2_5_vl": "<|im_end|>",
    "idefics3": "<end_of_utterance>",
    "gemma3": "<end_of_turn>",
}


@cache
def processor(name: str):
    """Every test's one; nothing changes it."""
    return MAKERS[name]()


def record(*texts: str, where: str = "set.json, line 7") -> Record:
    """Human and model in turn, an image of some size for each mark."""
    turns = tuple(Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts))
    marks = sum(text.count("<image>") for text in texts)
    images = tuple(image(n, 40 + 50 * (n % 2), 40 + 20 * (n % 3)) for n in range(marks))
    return Record("a", images, turns, where)
