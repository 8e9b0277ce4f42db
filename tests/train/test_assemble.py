"""LLaVA's two stages from scratch, in small: a tower and a language model become a model that answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from PIL import Image
from processors import image, square_of, tokenizer
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    LlamaForCausalLM,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    set_seed,
)

import foveate
from foveate.hosts.assemble import IMAGE, assemble
from foveate.train import run
from foveate.train.model import load

CLASSES = pytest.mark.parametrize("tower", ["clip", "siglip"])


@pytest.fixture(scope="session")
def towers(tmp_path_factory):
    """Folders of a whole CLIP, text and all, and of a SigLIP tower, which has no class token."""
    clip, siglip = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("siglip")
    seen = small.vision()
    config = CLIPConfig(vision_config=seen.to_dict(), projection_dim=small.WIDTH)
    config.text_config.num_hidden_layers = 1
    torch.manual_seed(1)
    CLIPModel(config).save_pretrained(clip)
    CLIPImageProcessor(**square_of(32)).save_pretrained(clip)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {n: getattr(seen, n) for n in (*names, "image_size", "patch_size")}
    SiglipVisionModel(SiglipVisionConfig(**sizes)).save_pretrained(siglip)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(siglip)
    return {"clip": str(clip), "siglip": str(siglip)}


@pytest.fixture(scope="session")
def speaker(tmp_path_factory):
    """A language model without an image token, whose embeddings are just enough for its words."""
    folder = tmp_path_factory.mktemp("speaker")
    words = tokenizer("<s>", "</s>", bos="<s>", eos="</s>")
    torch.manual_seed(2)
    LlamaForCausalLM(small.speaker(len(words), eos_token_id=words.eos_token_id)).save_pretrained(
        folder
    )
    words.save_pretrained(folder)
    return str(folder)


@CLASSES
def test_tokens_and_embeddings(towers, speaker, tower, tmp_path):
    model, processor = assemble(towers[tower], speaker)
    words, rows = processor.tokenizer, model.get_input_embeddings().num_embeddings
    assert (
        model.config.image_token_id
        == words.convert_tokens_to_ids(IMAGE)
        == processor.image_token_id
    )
    assert model.config.text_config.vocab_size == rows >= len(words)
    assert rows % 64 == 0
    assert model.get_output_embeddings().weight.shape[0] == rows
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])
    inputs = processor(images=image(0), text=f"{IMAGE}a red dog", return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 16
    assert inputs["input_ids"].max() < rows
    model.eval()
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape[-1] == rows and logits.isfinite().all()

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    back = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    again = AutoProcessor.from_pretrained(tmp_path)(
        images=image(0), text=f"{IMAGE}a red dog", return_tensors="pt"
    )
    with torch.no_grad():
        assert torch.equal(back(**again).logits, logits)


def test_the_tower_is_the_tower(towers, speaker):
    """Weights come over; what the projector reads is the last block but one, without the class token."""
    model, _ = assemble(towers["clip"], speaker)
    clip = CLIPModel.from_pretrained(towers["clip"]).eval()
    model.eval()
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = clip.vision_model(pixels, output_hidden_states=True).hidden_states
        want = model.model.multi_modal_projector(states[-2][:, 1:])
        found = model.get_image_features(pixels)
    found = getattr(found, "pooler_output", found)
    torch.testing.assert_close(torch.cat(list(found)).view_as(want), want)


def test_the_chat_template_is_llavas(towers, speaker):
    """Word by word in test_protocol; here, that a new model has it."""
    _, processor = assemble(towers["clip"], speaker)
    asks = foveate.protocol(processor, "llava")
    assert processor.chat_template == asks.chat_template


def captions(folder):
    """Images and what they show, and nothing else."""
    found = []
    for n in range(8):
        value = small.conversation(2 * n, images=True)
        image(n).save(folder / value["image"])
        found.append(value)
    path = folder / "captions.json"
    path.write_text(json.dumps(found))
    return path


def test_pretrain_then_tune(towers, speaker, data, tmp_path):
    """Only the projector learns first; the second stage begins with it and pads images to squares."""
    first = replace(
        small.card(speaker, captions(tmp_path), vision=towers["clip"], template="plain"),
        trains={"projector": 1e-2},
        steps=4,
    )
    run(first, tmp_path / "first")
    set_seed(first.seed)  # rows of the embeddings are new
    before = assemble(towers["clip"], speaker)[0].state_dict()
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "first").state_dict()
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in before if "projector" in n}

    second = small.card(tmp_path / "first", data, square=True, order="grouped", method="llavolta")
    run(replace(second, arguments={"schedule": "two_stage"}), tmp_path / "second")
    model = foveate.from_pretrained(tmp_path / "second").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "second")
    assert processor.image_processor.do_pad
    plain = AutoProcessor.from_pretrained(tmp_path / "first").image_processor
    wide = Image.fromarray(np.full((10, 40, 3), 200, dtype=np.uint8))
    mean = torch.tensor([int(255 * m) / 255 for m in processor.image_processor.image_mean])
    padding = (mean - torch.tensor(plain.image_mean)) / torch.tensor(plain.image_std)
    pixels = processor.image_processor(wide, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels[:, 0, 0], padding, atol=1e-2, rtol=0)
    assert not torch.allclose(pixels[:, 16, 16], padding, atol=0.1)
    assert torch.equal(
        pixels, processor(images=wide, text=IMAGE, return_tensors="pt")["pixel_values"][0]
    )
    inputs = processor(images=wide, text=f"USER: {IMAGE}\nSay. ASSISTANT:", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_as_asked(towers, speaker, data, attention):
    """In every part, in a model that a recipe assembles."""
    card = small.card(speaker, data, vision=towers["clip"], attention=attention)
    model, _ = load(card)
    configs = [model.config, model.config.text_config, model.config.vision_config]
    configs += [model.model.vision_tower.config, model.model.language_model.config]
    assert {config._attn_implementation for config in configs} == {attention}


def test_special_tokens_of_the_language_model_stay(towers, speaker, tmp_path):
    words = AutoTokenizer.from_pretrained(speaker)
    words.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    model = LlamaForCausalLM(small.speaker(len(words), eos_token_id=words.eos_token_id))
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    _, processor = assemble(towers["clip"], str(tmp_path))
    assert {"<tool>", IMAGE} <= set(processor.tokenizer.all_special_tokens)
    assert {"<tool>", IMAGE} <= set(processor.tokenizer.extra_special_tokens)
