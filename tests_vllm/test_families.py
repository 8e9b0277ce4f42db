"""Small random models of the families that vLLM's transformers backend knows: the same tokens."""

from __future__ import annotations

import subprocess

import pytest
import torch
from families import FAMILIES
from PIL import Image
from processing import processor

import foveate
from foveate.registry import written
from recipes.vllm_answers import NEW_TOKENS, asked, ours, theirs

IDS = {
    "llava": {"image": "<image>"},
    "llava_next": {"image": "<image>"},
    "llava_onevision": {"image": "<image>", "video": "<video>"},
    "internvl": {"image": "<IMG_CONTEXT>"},
    "idefics3": {"image": "<image>"},
    "mistral3": {"image": "[IMG]"},
    "qwen2_5_vl": {
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
    },
}
USUAL = [(64, 64), (64, 96), (96, 64)]  # of images: height and width
SIZES = {"llava_onevision": [(32, 64), (20, 60), (64, 32)]}  # the model makes none of them smaller
NEAR = 1e-3  # a margin of two logits that counts as a tie
WRITTEN = ["idefics3", "mistral3"]  # with text between an image's tokens
METHODS = [None, "identity", "divprune(keep=0.4)", "pool(stride=3)"]


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
    words.save_pretrained(folder)
    return model.eval(), words


@pytest.mark.parametrize("name", [name for name in IDS if name not in WRITTEN])
def test_the_same_tokens(name, tmp_path):
    model, words = saved(name, tmp_path)
    draw = torch.Generator().manual_seed(0)
    pixels = [
        torch.randint(0, 256, (h, w, 3), generator=draw, dtype=torch.uint8)
        for h, w in SIZES.get(name, USUAL)
    ]
    one, two, three = (Image.fromarray(some.numpy()) for some in pixels)
    asks = [
        ((one,), "What is it?"),
        ((two,), "What is in the picture?"),
        ((three, two), "Are they alike?"),
    ]
    if name == "llava_onevision":  # vLLM cuts each of several images into tiles, transformers none
        asks = asks[:2]
    said = set()
    for positions in ("renumbered", "original"):
        requests = [request for text in METHODS for request in asked(words, asks, text)]
        answers = theirs(str(tmp_path), positions, requests)
        for i, text in enumerate(METHODS):
            newlines = "none" if text else "rows"
            mine = ours(model, words, text or "identity", positions, asks, newlines=newlines)
            said |= {(text, *a["ids"]) for a in mine}
            for a, b in zip(mine, answers[i * len(asks) :], strict=False):
                pairs = zip(a["ids"], b["ids"], a["margin"], strict=False)
                apart = next((margin for x, y, margin in pairs if x != y), 0)
                assert apart < NEAR, (text, positions)
    assert len(said) > len(asks) * len(METHODS)  # positions tell


def test_tokens_of_a_video_keep_their_times(tmp_path):
    model, words = saved("qwen2_5_vl", tmp_path)
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4, 84, 56, 3), generator=draw, dtype=torch.uint8)
    text = "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>What is it?<|im_end|>\n"
    images = [Image.fromarray(frame.numpy()) for frame in frames]
    asks = [{"prompt": text, "images": images, "video": True, "method": m} for m in METHODS]
    batch = words(text=[text], videos=[frames.numpy()], return_tensors="pt")
    for method, answer in zip(METHODS, theirs(str(tmp_path), "original", asks), strict=True):
        foveate.compress(model, written.spec(method or "identity").build(model=model))
        mine = model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        assert mine[batch["input_ids"].shape[1] :].tolist() == answer["ids"], method


def test_what_memory_is_reserved_by_has_text_behind_each_image(tmp_path):
    """On a CPU vLLM goes on without it, on a GPU it would not start."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    saved("qwen2_5_vl", tmp_path)
    told = {"foveate": "stride(keep=0.5)", "foveate_positions": "original"}
    given = {"model_impl": "transformers", "max_model_len": 4096, "mm_processor_kwargs": told}
    config = EngineArgs(str(tmp_path), **given).create_model_config()
    reserving = MULTIMODAL_REGISTRY.create_processor(config)
    made = reserving.get_dummy_mm_inputs({"image": 2, "video": 1})
    assert [len(some) for some in made["mm_placeholders"].values()] == [2, 1]


@pytest.mark.parametrize("name", WRITTEN)
def test_text_between_an_images_tokens_is_refused_and_a_bare_image_is_not(name, tmp_path, capfd):
    _, words = saved(name, tmp_path)
    asks = [((Image.new("RGB", (64, 64), "red"),), "What is in the picture?")]
    (answer,) = theirs(str(tmp_path), "renumbered", asked(words, asks, None))
    assert len(answer["ids"]) == NEW_TOKENS
    with pytest.raises(subprocess.CalledProcessError):
        theirs(str(tmp_path), "renumbered", asked(words, asks, METHODS[1]))
    assert f"{name} puts text between the tokens of an image" in capfd.readouterr().err
