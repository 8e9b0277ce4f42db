"""Small random models of the families that vLLM's transformers backend knows: the same tokens."""

from __future__ import annotations

import subprocess

import pytest
import torch
from families import FAMILIES
from PIL import Image
from processors import processor
from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

from recipes.vllm_answers import NEW_TOKENS, asked, ours, theirs

IDS = {
    "llava": {"image": "<image>"},
    "llava_next": {"image": "<image>"},
    "idefics3": {"image": "<image>"},
    "qwen2_5_vl": {
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
    },
}
NEAR = 1e-3  # a margin of two logits that counts as a tie
METHODS = ["identity", "divprune(keep=0.4)", "pool(stride=3)"]


def saved(name, folder):
    """A model of a family with a real processor, in a folder."""
    family, words = FAMILIES[name], processor(name)
    config = family.config()
    for kind, token in IDS[name].items():
        setattr(config, f"{kind}_token_id", words.tokenizer.convert_tokens_to_ids(token))
    text = config.get_text_config()
    text.vocab_size = len(words.tokenizer) + 8
    text.num_attention_heads, text.num_key_value_heads = 2, 1
    text.head_dim = 32  # vLLM's kernels take no 16
    if name == "qwen2_5_vl":  # as its processor cuts images
        config.vision_config.patch_size, config.vision_config.window_size = 14, 56
    if "mrope_section" in text.rope_parameters:
        text.rope_parameters["mrope_section"] = [4, 6, 6]
    text.eos_token_id = text.bos_token_id = None
    torch.manual_seed(0)
    model = family.model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.12)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    whole = words
    if name == "qwen2_5_vl":  # the tests' own has no part for videos, and cannot be saved
        parts = words.image_processor, words.tokenizer, Qwen2VLVideoProcessor()
        whole = Qwen2_5_VLProcessor(*parts, chat_template=words.chat_template)
    whole.save_pretrained(folder)
    return model.eval(), words


@pytest.mark.parametrize("name", [name for name in IDS if name != "idefics3"])
def test_the_same_tokens(name, tmp_path):
    model, words = saved(name, tmp_path)
    draw = torch.Generator().manual_seed(0)
    sizes = [(64, 64), (64, 96), (96, 64)]
    pixels = [torch.randint(0, 256, (h, w, 3), generator=draw, dtype=torch.uint8) for h, w in sizes]
    one, two, three = (Image.fromarray(some.numpy()) for some in pixels)
    asks = [
        ((one,), "What is it?"),
        ((two,), "What is in the picture?"),
        ((three, two), "Are they alike?"),
    ]
    said = set()
    for positions in ("renumbered", "original"):
        requests = [request for text in METHODS for request in asked(words, asks, text)]
        answers = theirs(str(tmp_path), positions, requests)
        for i, text in enumerate(METHODS):
            mine = ours(model, words, text, positions, asks, newlines="none")
            said |= {(text, *a["ids"]) for a in mine}
            for a, b in zip(mine, answers[i * len(asks) :], strict=False):
                pairs = zip(a["ids"], b["ids"], a["margin"], strict=False)
                apart = next((margin for x, y, margin in pairs if x != y), 0)
                assert apart < NEAR, (text, positions)
    assert len(said) > len(asks) * len(METHODS)  # positions tell


def test_text_between_an_images_tokens_is_refused_and_a_bare_image_is_not(tmp_path, capfd):
    _, words = saved("idefics3", tmp_path)
    asks = [((Image.new("RGB", (64, 64), "red"),), "What is in the picture?")]
    (answer,) = theirs(str(tmp_path), "renumbered", asked(words, asks, None))
    assert len(answer["ids"]) == NEW_TOKENS
    with pytest.raises(subprocess.CalledProcessError):
        theirs(str(tmp_path), "renumbered", asked(words, asks, METHODS[1]))
    assert "idefics3 puts text between the tokens of an image" in capfd.readouterr().err
