"""Public LLaVA-STF checkpoints, made here with LLaVA's names and shapes; what they compute, by hand."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import foveate
from foveate import LLaVASTF, MultiBlockFusion, SpatialFusion, convert_llava_stf
from foveate.chat import prompt
from foveate.cli import run

TOWER, WIDTH, HIDDEN, BLOCK_HIDDEN, WORDS = 16, 32, 40, 24, 70
BLOCKS = (21, 18, 15, 12, 9, 6, 3)  # of 24, beside the last but one
MBTF, STF = "model.mm_projector_crosslayer", "model.mm_projector"
SAID = {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "use_cache": True}
SAID |= {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": WORDS}
SAID |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
SAID |= {"rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 5000.0, "torch_dtype": "float32"}
SAID |= {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "pretraining_tp": 1}
SAID |= {"mm_hidden_size": TOWER, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}
SAID |= {"mm_vision_select_feature": "patch", "mm_use_im_start_end": False}
SAID |= {"image_aspect_ratio": "pad"}


def tokenizer():
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(WORDS - 3))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    special = {"unk_token": "<unk>", "pad_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A tower of 24 blocks and 4 × 4 patches, in a folder."""
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=TOWER,
        intermediate_size=2 * TOWER,
        num_hidden_layers=24,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    CLIPVisionModel(config).save_pretrained(folder)
    sizes = {name: {"height": 32, "width": 32} for name in ("size", "crop_size")}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speaker():
    torch.manual_seed(1)
    names = LlamaConfig().to_dict().keys() | {"rope_theta"}
    known = {n: v for n, v in SAID.items() if n in names - {"architectures", "model_type"}}
    return LlamaForCausalLM(LlamaConfig(**known)).eval()


def mlp(name, into, hidden, out):
    draw = torch.Generator().manual_seed(into)
    shapes = {"0.weight": (hidden, into), "0.bias": (hidden,)}
    shapes |= {"2.weight": (out, hidden), "2.bias": (out,)}
    return {f"{name}.{n}": torch.randn(s, generator=draw) * into**-0.5 for n, s in shapes.items()}


def connector(blocks=7, window=2):
    """MBTF and STF as LLaVA names them; no blocks, no MBTF."""
    fused = mlp(MBTF, (1 + blocks) * TOWER, BLOCK_HIDDEN, TOWER) if blocks else {}
    return fused | mlp(STF, window**2 * TOWER, HIDDEN if window > 1 else WIDTH, WIDTH)


def seen(tower):
    return CLIPVisionModel.from_pretrained(tower).eval()


def weights_of(tower, speaker, **changes):
    """The whole state dict; LLaVA's tower lies in a tower, and old Llamas save their frequencies."""
    found = {name: value.clone() for name, value in speaker.state_dict().items()}
    found["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    prefix = "model.vision_tower.vision_tower.vision_model."
    for name, value in seen(tower).state_dict().items():
        found[prefix + name.removeprefix("vision_model.")] = value.clone()
    return found | connector(**changes)


def folder(place, weights, tower, how="bin", **said):
    place.mkdir()
    said = SAID | {"mm_vision_tower": str(tower)} | said
    said = {name: value for name, value in said.items() if value is not ...}
    (place / "config.json").write_text(json.dumps(said))
    tokenizer().save_pretrained(place)
    if how == "safetensors":
        save_file(weights, place / "model.safetensors")
    elif how == "bin":
        torch.save(weights, place / "pytorch_model.bin")
    elif how == "old":
        torch.save(weights, place / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        names, index = sorted(weights), {}
        for i in range(2):
            file = f"pytorch_model-{i + 1:05}-of-00002.bin"
            torch.save({n: weights[n] for n in names[i::2]}, place / file)
            index |= dict.fromkeys(names[i::2], file)
        text = json.dumps({"metadata": {}, "weight_map": index})
        (place / "pytorch_model.bin.index.json").write_text(text)
    return place


def by_hand(tower, speaker, weights, pixels, before, after, blocks=BLOCKS, window=2):
    """Logits of the prompt before | image | after, with convolutions; the image's columns left out."""
    with torch.no_grad():
        states = seen(tower)(pixels, output_hidden_states=True).hidden_states
        x = states[-2][:, 1:]
        if blocks:
            x = torch.cat([x, *(states[i][:, 1:] for i in blocks)], dim=-1)
            x = F.linear(x, weights[f"{MBTF}.0.weight"], weights[f"{MBTF}.0.bias"])
            x = F.linear(F.gelu(x), weights[f"{MBTF}.2.weight"], weights[f"{MBTF}.2.bias"])
        plane = x.mT.reshape(len(x), TOWER, 4, 4)
        kernel = weights[f"{STF}.0.weight"].reshape(-1, TOWER, window, window)
        plane = F.gelu(F.conv2d(plane, kernel, weights[f"{STF}.0.bias"], stride=window))
        kernel = weights[f"{STF}.2.weight"][..., None, None]
        image = F.conv2d(plane, kernel, weights[f"{STF}.2.bias"]).flatten(2).mT
        embed = speaker.get_input_embeddings()
        embeds = torch.cat([embed(before), image, embed(after)], dim=1)
        logits = speaker(inputs_embeds=embeds).logits
    return torch.cat([logits[:, : before.shape[1]], logits[:, -after.shape[1] :]], dim=1)


def same_as_by_hand(out, tower, speaker, weights, **how):
    model = foveate.from_pretrained(out).eval()
    assert model.config.visual_compression["positions"] == "renumbered"
    processor = AutoProcessor.from_pretrained(out)
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    text = "w1 w2 <image> w3 w4 w5"
    inputs = processor(images=Image.fromarray(noise), text=text, return_tensors="pt")
    ids, words = inputs["input_ids"], inputs["input_ids"] != model.config.image_token_id
    with torch.no_grad():
        found = model(**inputs).logits[:, words[0], :WORDS]
    before, after = ids[:, :3], ids[:, -3:]
    want = by_hand(tower, speaker, weights, inputs["pixel_values"], before, after, **how)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=0)
    said = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert int(said.max()) <= WORDS  # the image token is the last, and nobody says it
    return model


@pytest.mark.parametrize("how", ["bin", "shards", "safetensors", "old"])
def test_a_whole_checkpoint(tower, speaker, tmp_path, how):
    weights = weights_of(tower, speaker)
    source = folder(tmp_path / "public", weights, tower, how)
    out = convert_llava_stf(source, tmp_path / "out")
    model = same_as_by_hand(out, tower, speaker, weights)
    method = model.model.visual_compressor
    assert isinstance(method, LLaVASTF) and method.vision_layers == BLOCKS
    assert foveate.last_counts(model) == [4]
    processor = AutoProcessor.from_pretrained(out)
    assert processor.image_processor.do_pad
    asked = prompt(processor, "What is it?")  # in the words that such a checkpoint was trained with
    assert asked.endswith(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. USER: <image>\nWhat is it? ASSISTANT:"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "public"]
    plain = AutoModelForImageTextToText.from_pretrained(out)
    assert plain.get_input_embeddings().num_embeddings == 128
    assert plain.generation_config.eos_token_id == 2


def test_a_tower_from_elsewhere_and_the_projector_nobody_runs(tower, speaker, tmp_path):
    weights = {n: w for n, w in weights_of(tower, speaker).items() if "vision_tower" not in n}
    source = folder(tmp_path / "public", weights, "no/such")
    with pytest.raises(OSError, match="no/such cannot be read: vision="):
        convert_llava_stf(source, tmp_path / "out")
    speaker.save_pretrained(tmp_path / "speaker")
    refused(
        tmp_path,
        source,
        "speaker is a llama: want a vision tower",
        vision=str(tmp_path / "speaker"),
    )
    found = []
    for name in ("a", "b"):
        torch.manual_seed(len(found))
        out = convert_llava_stf(source, tmp_path / name, vision=str(tower))
        model = same_as_by_hand(out, tower, speaker, weights)
        found.append(model.model.multi_modal_projector.linear_1.weight)
    assert torch.equal(*found) and found[0].std() > 0


def test_the_checkpoints_own_tower_goes_first(tower, speaker, tmp_path):
    weights = weights_of(tower, speaker)
    trained = {n: w + 0.01 if "vision_tower" in n else w for n, w in weights.items()}
    source = folder(tmp_path / "public", trained, tower)
    out = convert_llava_stf(source, tmp_path / "out")
    with pytest.raises(AssertionError):
        same_as_by_hand(out, tower, speaker, weights)


@pytest.mark.parametrize(
    ("blocks", "window", "kind"),
    [((), 2, SpatialFusion), ((16, 8), 4, LLaVASTF), ((12,), 1, MultiBlockFusion)],
)
def test_other_shapes(tower, speaker, tmp_path, blocks, window, kind):
    weights = weights_of(tower, speaker, blocks=len(blocks), window=window)
    source = folder(tmp_path / "public", weights, tower, image_aspect_ratio=None)
    out = convert_llava_stf(source, tmp_path / "out")
    model = same_as_by_hand(out, tower, speaker, weights, blocks=blocks, window=window)
    assert isinstance(model.model.visual_compressor, kind)
    assert not getattr(AutoProcessor.from_pretrained(out).image_processor, "do_pad", False)


def test_blocks_that_are_given(tower, speaker, tmp_path):
    weights = weights_of(tower, speaker, blocks=2)
    source = folder(tmp_path / "public", weights, tower)
    out = convert_llava_stf(source, tmp_path / "out", vision_layers=[2, 20])
    same_as_by_hand(out, tower, speaker, weights, blocks=(2, 20))
    for wrong in ([2], [2, 26], [2, 2]):
        refused(tmp_path, source, "hidden state", vision_layers=wrong)


def test_half_precision_stays(tower, speaker, tmp_path):
    weights = {n: w.bfloat16() for n, w in weights_of(tower, speaker).items()}
    out = convert_llava_stf(folder(tmp_path / "public", weights, tower), tmp_path / "out")
    model = foveate.from_pretrained(out, dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    mine = model.model.visual_compressor.spatial.mlp[0].weight
    assert torch.equal(mine, weights[f"{STF}.0.weight"])


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model."])
def test_the_first_stage_onto_a_llava(tower, speaker, tmp_path, prefix):
    weights = weights_of(tower, speaker)
    llava = convert_llava_stf(folder(tmp_path / "public", weights, tower), tmp_path / "llava")
    foveate.restore(foveate.from_pretrained(llava)).save_pretrained(tmp_path / "bare")
    AutoProcessor.from_pretrained(llava).save_pretrained(tmp_path / "bare")
    other = {n: w + 0.1 for n, w in connector().items()}
    file = tmp_path / "mm_projector.bin"
    torch.save({prefix + n.removeprefix("model."): w for n, w in other.items()}, file)
    out = convert_llava_stf(file, tmp_path / "out", language=str(tmp_path / "bare"))
    same_as_by_hand(out, tower, speaker, weights | other)
    refused(
        tmp_path, file, "a tower of its own", vision=str(tower), language=str(tmp_path / "bare")
    )


def test_the_first_stage_onto_tower_and_language_model(tower, speaker, tmp_path):
    speaker.save_pretrained(tmp_path / "speaker")
    tokenizer().save_pretrained(tmp_path / "speaker")
    stage = tmp_path / "stage"
    stage.mkdir()
    torch.save(connector(), stage / "mm_projector.bin")
    refused(tmp_path, stage, "a connector alone: language=")
    refused(tmp_path, stage, "want vision=", language=str(tmp_path / "speaker"))
    parts = {"vision": str(tower), "language": str(tmp_path / "speaker")}
    out = convert_llava_stf(stage, tmp_path / "out", **parts)
    same_as_by_hand(out, tower, speaker, connector())


LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({LAYER: None}, f"it lacks {LAYER}$"),
        ({LAYER: torch.ones(3, 5)}, rf"{LAYER} is \(3, 5\), want \(64, 32\)"),
        ({"model.image_newline": torch.ones(4)}, "no place for model.image_newline"),
        ({f"{STF}.2.bias": None}, "it lacks mm_projector.2.bias"),
        ({f"{STF}.0.weight": None}, "want a matrix mm_projector.0.weight; .*mm_projector.2.bias"),
        ({f"{STF}.0.weight": torch.ones(HIDDEN, 50)}, "reads 50 channels: want a square number"),
        ({f"{STF}.2.weight": torch.ones(30, HIDDEN)}, r"2.weight is \(30, 40\), want \(32, 40\)"),
        ({f"{MBTF}.0.weight": torch.ones(9, 40)}, r"crosslayer.0.weight \(9, 40\)"),
        ({f"{MBTF}.2.bias": torch.ones(9)}, r"mm_projector_crosslayer.2.bias is \(9,\), want \(16,\)"),
        ({f"{STF}.4.weight": torch.ones(2, 2)}, "no place for mm_projector.4.weight"),
        ({"model.vision_tower.vision_tower.vision_model.post_layernorm.bias": None},
         "lacks model.vision_tower.vision_tower.vision_model.post_layernorm.bias"),
        ({"model.embed_tokens.weight": torch.ones(7, WIDTH)}, r"embed_tokens.weight is \(7, 32\)"),
        ({"ema.mm_projector.0.bias": torch.ones(HIDDEN)}, "ema.mm_projector.0.bias are the same weight"),
        ({"model.vision_tower.vision_tower.post_layernorm.bias": torch.ones(TOWER)},
         "vision_model.post_layernorm.bias and .* are the same weight"),
        ({LAYER: torch.ones(64, 32, dtype=torch.int8)}, f"{LAYER} is of torch.int8: want one of float16"),
        ({f"{STF}.2.bias": torch.ones(WIDTH, dtype=torch.int8)}, "mm_projector.2.bias is of torch.int8"),
        ({LAYER: torch.full((64, 32), torch.nan)}, f"{LAYER} has 2048 values of 2048 that are NaN"),
        ({f"{STF}.2.bias": torch.tensor([torch.inf] + [0.0] * 31)}, "has 1 values of 32 that are NaN or"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(tower, speaker, tmp_path, change, says):
    weights = weights_of(tower, speaker) | change
    weights = {name: value for name, value in weights.items() if value is not None}
    source = folder(tmp_path / "public", weights, tower)
    refused(tmp_path, source, says)
    assert [p.name for p in tmp_path.iterdir()] == ["public"]


def refused(tmp_path, source, says, **given):
    """No conversion, in these words."""
    with pytest.raises(ValueError, match=says):
        convert_llava_stf(source, tmp_path / "refused", **given)


def test_a_plain_llava_is_told_so(tower, speaker, tmp_path):
    weights = weights_of(tower, speaker, blocks=0, window=1)
    source = folder(tmp_path / "public", weights, tower)
    refused(tmp_path, source, r"plain LLaVA.*nothing of LLaVA-STF")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"model_type": "llava_mpt"}, "model_type is 'llava_mpt': want llava or llava_llama"),
        ({"mm_vision_select_feature": "cls_patch"}, "want patch"),
        ({"image_aspect_ratio": "anyres"}, "want pad or square"),
        ({"mm_hidden_size": 8}, "mm_hidden_size is 8, the tower .* has 16"),
        ({"mm_vision_select_layer": -100}, "layer is -100: the tower .* 0 to 24, or -25 to -1"),
        ({"mm_vision_select_layer": 99}, "layer is 99: the tower .* has hidden states 0 to 24"),
        ({"mm_vision_select_layer": "-2"}, "layer is '-2': the tower"),
        ({"vocab_size": None}, r"config\.json: vocab_size is None: want a whole number >= 1"),
        ({"vocab_size": ...}, r"config\.json: vocab_size is not there: want"),
        ({"tie_word_embeddings": True}, r"lm_head.weight is not model.embed_tokens.weight: want"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4': want a whole number"),
        ({"rms_norm_eps": "small"}, r"config\.json makes no llama: .*rms_norm_eps"),
        ({"num_attention_heads": 5}, r"config\.json makes no llama: .*\(5\)"),
    ],
)
def test_configs_that_cannot_be_kept(tower, speaker, tmp_path, said, says):
    source = folder(tmp_path / "public", weights_of(tower, speaker), tower, **said)
    refused(tmp_path, source, says)


@pytest.mark.parametrize("how", ["missing", "equal"])
def test_tied_embeddings(tower, speaker, tmp_path, how):
    weights = weights_of(tower, speaker)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    tied = copy.deepcopy(speaker)
    tied.load_state_dict({"lm_head.weight": weights["lm_head.weight"]}, strict=False)
    if how == "missing":
        del weights["lm_head.weight"]
    source = folder(tmp_path / "public", weights, tower, tie_word_embeddings=True)
    model = same_as_by_hand(convert_llava_stf(source, tmp_path / "out"), tower, tied, weights)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_how_it_generates_is_taken_over(tower, speaker, tmp_path):
    source = folder(tmp_path / "public", weights_of(tower, speaker), tower)
    # As LLaVA-1.5's own: temperatures without sampling, which transformers warns of.
    said = {"eos_token_id": [2, 5], "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}
    (source / "generation_config.json").write_text(json.dumps(said))
    out = convert_llava_stf(source, tmp_path / "out")
    found = foveate.from_pretrained(out).generation_config
    assert {name: getattr(found, name) for name in said} == said
    (source / "generation_config.json").write_text("{")
    refused(tmp_path, source, r"public/generation_config\.json is not JSON")


def test_nothing_of_the_users_is_taken_for_a_left_over(tower, speaker, tmp_path, monkeypatch):
    kept = tmp_path / "out.partial" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    source = folder(tmp_path / "public", weights_of(tower, speaker), tower)
    out = convert_llava_stf(source, tmp_path / "new" / "out")
    assert [p.name for p in out.parent.iterdir()] == ["out"] and kept.read_text() == "mine"
    convert_llava_stf(source, tmp_path / "out")
    assert kept.read_text() == "mine"

    def full(self, *args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(LlavaProcessor, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        convert_llava_stf(source, tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "out", "out.partial", "public"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"],
         "holds model.embed_tokens.weight, model.layers.0.mlp.up_proj.weight: want a connector"),
        (["ema.mm_projector.0.bias"],
         "model.mm_projector.0.bias and ema.mm_projector.0.bias are the same weight"),
    ],
)  # fmt: skip
def test_a_first_stage_that_holds_more(tmp_path, names, says):
    file = tmp_path / "mm_projector.bin"
    torch.save(connector() | {name: torch.ones(3) for name in names}, file)
    refused(tmp_path, file, says, vision="no/such", language="no/such")


@pytest.mark.parametrize(
    "name", ["non_lora_trainables.bin", "adapter_model.bin", "adapter_model.safetensors"]
)
def test_a_lora_is_to_be_merged_first(tower, tmp_path, name):
    source = folder(tmp_path / "public", connector(), tower)
    for whole in (True, False):
        save = save_file if name.endswith("safetensors") else torch.save
        save(connector() | {"base_model.model.model.norm.weight": torch.ones(WIDTH)}, source / name)
        for given in (source, source / name):
            refused(tmp_path, given, rf"{name}: merge the LoRA first", language="no/such")
        if whole:
            (source / "pytorch_model.bin").unlink()


def test_a_name_in_two_files(tower, speaker, tmp_path):
    source = folder(tmp_path / "public", weights_of(tower, speaker), tower, "shards")
    first, second = sorted(source.glob("*.bin"))
    name = next(iter(torch.load(first)))
    torch.save(torch.load(second) | {name: torch.ones(1)}, second)
    refused(tmp_path, source, f"{second.name} has {name}, and so has {first.name}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"public/config\.json is not JSON: "),
        ("[1]", r"public/config\.json holds a list: want an object"),
        ('{"mm_vision_tower": null}', "names no mm_vision_tower"),
    ],
)
def test_a_broken_config(tower, tmp_path, text, says):
    source = folder(tmp_path / "public", connector(), tower)
    (source / "config.json").write_text(text)
    refused(tmp_path, source, says)
    index = source / "pytorch_model.bin.index.json"
    for text, says in (("{", "index.json is not JSON"), ("{}", "index.json has no weight_map")):
        index.write_text(text)
        refused(tmp_path, source, says)


class Evil:
    def __reduce__(self):
        return print, ("code of a checkpoint ran",)


def test_files_that_are_no_weights(tower, speaker, tmp_path, capsys):
    source = folder(tmp_path / "public", connector(), tower)
    file = source / "pytorch_model.bin"
    refused(tmp_path, source, "public: want weights")
    for content in (b"", b"no weights at all"):
        file.write_bytes(content)
        refused(tmp_path, source, "holds no weights")
    for content in (Evil(), {"a": 1}, [torch.ones(1)]):
        torch.save(content, file)
        refused(tmp_path, source, "holds no weights")
    assert "ran" not in capsys.readouterr().out
    index = {"weight_map": {"a": "pytorch_model.bin", "b": "pytorch_model-2.bin"}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    refused(tmp_path, source, r"files that are not there: pytorch_model-2\.bin")


def test_the_command(tower, speaker, tmp_path, capsys):
    weights = weights_of(tower, speaker, blocks=2)
    source, out = folder(tmp_path / "public", weights, tower), tmp_path / "out"
    words = ["convert", str(source), str(out), "--vision-layers", "20,4", "--json"]
    assert run(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["out"] == str(out) and document["positions"] == "renumbered"
    assert (
        document["arguments"]["vision_layers"] == [20, 4] and document["arguments"]["window"] == 2
    )
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    assert run(["ask", str(tmp_path / "a.png"), "w1 w2", "--model", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    shutil.rmtree(out)
    assert run(["convert", str(source), str(out)]) == 0
    assert "LLaVASTF(" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "no such file"),
        (["{tower}", "--vision-layers", "a"], "--vision-layers a: want whole numbers"),
        (["{tower}"], "names no mm_vision_tower"),
        (["{tower}", "--language", "x/y"], "is a whole checkpoint and has its own"),
    ],
)
def test_wrong_use_of_the_command(tower, tmp_path, capsys, words, says):
    source, *options = (word.format(tower=tower) for word in words)
    assert run(["convert", source, str(tmp_path / "out"), *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and says in shown.err and shown.err.count("\n") == 1
    (tmp_path / "out").write_text("here")
    assert run(["convert", source, str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
