"""CDPruner with a CLIP text tower: what it chooses by is CLIP's own cosine of patch and question."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

import foveate
from foveate import CLIPCDPruner, compress, embedded
from foveate.evaluate.prompts import encode, told
from foveate.hosts.clip import CLIP
from foveate.patchqa import PatchQA


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of the embedded model's sizes, with room for 16 tokens of text."""
    torch.manual_seed(0)
    model, processor = embedded.load()
    path, tokenizer = tmp_path_factory.mktemp("clip"), processor.tokenizer
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = model.config.vision_config.to_dict()
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    CLIPModel(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_relevance_is_the_cosine_that_clip_gives(folder):
    model, processor = embedded.load()
    words = ["what does the sign say ?", "what is the background ?"]
    images = [PatchQA("test")[i].pictures[0].pil() for i in (0, 1)]
    batch, asked = encode(processor, [((i,), w) for i, w in zip(images, words, strict=True)])
    method = foveate.sized(CLIPCDPruner, model, keep=9, clip=str(folder), words=str(embedded.PATH))
    compress(model, method)
    with torch.no_grad(), told(method, asked), foveate.trace(model) as seen:
        model(**batch)
    clip = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tower = model.model.vision_tower(batch["pixel_values"], output_hidden_states=True)
        states = tower.hidden_states[method.feature_layer][:, 1:]
        patches = clip.visual_projection(clip.vision_model.post_layernorm(states))
    for row, question in enumerate(words):
        inputs = processor.tokenizer(question, add_special_tokens=False).input_ids
        ids = [processor.tokenizer.bos_token_id, *inputs, processor.tokenizer.eos_token_id]
        with torch.no_grad():
            text = clip.get_text_features(torch.tensor([ids])).pooler_output
        away = -(normalize(patches[row], dim=-1) @ normalize(text, dim=-1)[0])
        want = (away - away.min()) / (away.max() - away.min())
        assert torch.allclose(seen.steps[0].scores[row], want, atol=1e-4)
    assert seen.steps[0].after.tolist() == [9, 9]


def test_a_long_question_is_read_in_pieces_and_an_empty_one_is_none(folder):
    clip = CLIP(folder)
    long = "what does the sign say ? " * 5
    words, there = clip.read(["red ?", long, ""])
    assert there.sum(1).tolist() == [1, 3, 0]
    assert torch.allclose(words[0, 0], clip.read(["red ?"])[0][0, 0], atol=1e-6)
    with pytest.raises(ValueError, match="128 wide, the model's 64"):
        clip.see(torch.zeros(1, 4, 64))


def test_it_comes_back_with_its_own_class(folder, tmp_path):
    model, _ = embedded.load()
    given = {"clip": str(folder), "words": str(embedded.PATH)}
    method = foveate.sized(CLIPCDPruner, model, keep=9, **given)
    compress(model, method).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="method="):
        foveate.from_pretrained(str(tmp_path))
    again = foveate.from_pretrained(str(tmp_path), method.but(keep=16))
    assert again.model.visual_compressor.arguments() == method.arguments() | {"keep": 16}


def test_what_is_no_clip_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        CLIP(tmp_path / "nothing")
    with pytest.raises(ValueError, match="a llava is no CLIP"):
        CLIP(embedded.PATH)
