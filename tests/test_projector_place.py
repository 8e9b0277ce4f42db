"""Before the projector and in its place: what arrives there, what is put there, and where nothing can.

What the methods that stand there compute is worked out by hand in methods/test_llava_stf; the features and
the grid that they read, in test_sight.
"""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from accelerate import cpu_offload
from calling import close, logits
from families import FAMILIES, ONE, TWO, VIDEO, VIDEO_ID, Prompt
from probes import drawn
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import foveate
from foveate import (
    Compressor,
    LLaVASTF,
    MultiBlockFusion,
    Site,
    SpatialFusion,
    Stride,
    Tower,
    VisionZip,
    sized,
)
from foveate.hosts import traits

BEFORE = {"gemma3": ["mm_soft_emb_norm"], "mistral3": ["norm", "patch_merger"]}  # of connectors
THREE = Prompt((2, "i", 4, "i", 3, "i", 5))
PLACED = sorted(name for name, family in FAMILIES.items() if family.projected is not None)


@pytest.mark.parametrize("name", PLACED)
def test_a_connector_taken_apart_is_the_connector(name):
    """Bit for bit; and the linear layers of the projector are found in it, whose weights are the model's."""
    base = FAMILIES[name].model().model
    for module in base.modules():
        if "RMSNorm" in type(module).__name__:
            nn.init.normal_(module.weight)
    calls = []
    connector = traits.connector_of(base)
    connector.register_forward_hook(lambda m, given, made: calls.append((given, made)))
    inputs = FAMILIES[name].inputs((ONE, TWO))
    with torch.no_grad():
        base(**inputs)
        (given, made), (projector, before) = calls[0], traits.projector_of(base)
        read = before(*given)
        assert torch.equal(projector(read), made)
    assert read.shape[-1] == FAMILIES[name].projected
    linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
    assert linear[0].in_features == read.shape[-1]
    assert linear[-1].out_features == len(linear[-1].weight) == made.shape[-1]
    projector(read).sum().backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in connector.parameters()) >= len(
        linear
    )


def test_a_bare_matrix_is_at_hand_where_weights_are_offloaded():
    """Gemma 3's projector is a parameter of its connector, which does not run when tokens went early."""
    family = FAMILIES["gemma3"]
    inputs, model = family.inputs((ONE, TWO)), foveate.compress(family.model(), VisionZip(5))
    away = foveate.compress(cpu_offload(family.model()), VisionZip(5))
    assert away.model.multi_modal_projector.mm_input_projection_weight.is_meta
    assert torch.equal(logits(away, inputs), logits(model, inputs))
    assert away.model.multi_modal_projector.mm_input_projection_weight.is_meta


class Own(Compressor):
    """The model's own projector, in its place."""

    site = Site(Tower.projector)

    def __init__(self, projector: nn.Module):
        super().__init__()
        self.project = copy.deepcopy(projector)

    def forward(self, tokens, context):
        return tokens.carry(self.project(tokens.x))

    def arguments(self):
        return {}


@pytest.mark.parametrize("name", PLACED)
def test_its_own_projector_in_its_place_is_the_model_untouched(name):
    """What arrives there is what the projector reads, and what leaves is put where its tokens stand."""
    model, ran = FAMILIES[name].model(), []
    own = Own(traits.projector_of(model.model)[0])
    traits.connector_of(model.model).register_forward_hook(lambda *_: ran.append(name))
    for prompts in FAMILIES[name].batches().values():
        inputs = FAMILIES[name].inputs(prompts)
        want = logits(model, inputs)
        assert ran
        ran.clear()
        with foveate.compressed(model, own):
            close(logits(model, inputs), want)
        assert not ran or name in BEFORE  # of which a part comes before that place


@pytest.mark.parametrize("name", PLACED)
def test_the_old_projector_stays_learns_nothing_and_loads_without_foveate(name, tmp_path):
    family = FAMILIES[name]
    inputs, model = family.inputs((ONE, TWO)), family.model()
    with torch.no_grad():
        bare = model(**inputs).logits
    method = drawn(sized(LLaVASTF, model, blocks=3))
    foveate.compress(model, method).train()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    model(**inputs, labels=labels.where(labels < VIDEO_ID, -100)).loss.backward()
    connector = traits.connector_of(model.model)
    before = BEFORE.get(name, ())
    idle = [p for n, p in connector.named_parameters() if n.split(".")[0] not in before]
    assert idle and all(p.grad is None for p in idle)
    assert all(p.grad is not None and bool(p.grad.any()) for p in method.parameters())

    model.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        want = model(**inputs).logits
        assert torch.equal(foveate.from_pretrained(tmp_path)(**inputs).logits, want)
        plain = family.model_class.from_pretrained(tmp_path)
        assert torch.equal(plain(**inputs).logits, bare)
    assert not any("visual_compressor" in n for n, _ in plain.named_parameters())
    loaded = traits.connector_of(plain.model).parameters()
    assert all(torch.equal(a, b) for a, b in zip(loaded, connector.parameters(), strict=True))


@pytest.mark.parametrize("window", [2, 4])
@torch.no_grad()
def test_a_fused_token_is_of_one_tile(window):
    """Borders that were cut off shift no window: the tiles are of 4 x 4 patches."""
    family = FAMILIES["llava_next"]
    model = family.model()
    foveate.compress(model, drawn(sized(SpatialFusion, model, window=window)))
    with foveate.trace(model) as seen:
        model(**family.inputs((THREE,)))
    for owner, (_, tiles, (rows, columns)) in zip(seen.steps[0].owner, family.cuts, strict=True):
        top, left = (4 * tiles[0] - rows) // 2, (4 * tiles[1] - columns) // 2
        found: dict[int, set] = {}
        for patch, token in enumerate(owner[16 : 16 + rows * columns].tolist()):
            cell = top + patch // columns, left + patch % columns
            found.setdefault(token, set()).add(tuple(n // window for n in cell))
        places = [where for cells in found.values() for where in cells]
        assert len(places) == len(found) == len(set(places))


@pytest.mark.parametrize("make", [LLaVASTF, SpatialFusion, MultiBlockFusion])
@pytest.mark.parametrize("name", FAMILIES)
def test_support_says_where_it_stands_and_why_not(name, make):
    family = FAMILIES[name]
    model = family.model()
    method = sized(make, model)
    said = foveate.support(model, method)
    works = family.projected is not None or name == "llava_onevision"
    assert said.works == works and said.sites == (str(method.site),)
    if works:
        foveate.compress(model, method)
        return
    assert said.why.startswith(f"{make.__name__} at {method.site}: {type(model.model).__name__}")
    assert "windows of tokens" in said.why
    assert "methods that act behind it, at language 0, work" in said.why
    with pytest.raises(NotImplementedError) as raised:
        foveate.compress(model, method)
    assert str(raised.value) == said.why
    assert foveate.support(model, Stride(4)).works


def test_a_resampler_is_refused_by_what_it_does():
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    config = transformers.Idefics2Config(
        vision_config={"image_size": 32, "patch_size": 8, "intermediate_size": 32, **small},
        text_config={"model_type": "mistral", "vocab_size": 100, "pad_token_id": 0, **small},
    )
    with torch.device("meta"):
        model = transformers.Idefics2ForConditionalGeneration(config)
    said = foveate.support(model, sized(SpatialFusion, model))
    assert not said.works
    assert "draws its tokens from all others" in said.why and "language 0, work" in said.why


@torch.no_grad()
def test_windows_behind_a_fusion_are_of_the_models_patches():
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs((ONE,))
    for stride, left in [(2, 4), (4, 1)]:
        chain = foveate.Chain(sized(SpatialFusion, model), foveate.Pool(stride, dims=2))
        foveate.compress(model, chain)
        model(**inputs)
        assert foveate.last_counts(model) == [left]


MERGING = {  # what none of their configs says
    "got_ocr2": "merges windows",  # convolutions
    "lfm2_vl": "merges windows",
    "lfm3_vl": "reads 4096 channels at once where a token has 1024",
    "minimax_m3_vl": "merges windows",
    "molmo2": "merges windows",
}


@pytest.mark.parametrize("kind", MERGING)
def test_connectors_that_merge_tokens_are_refused_by_what_they_have(kind):
    """Families that were never tested: a promise would break in the first forward."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(CONFIG_MAPPING[kind]())
    for method in (VisionZip(8), sized(SpatialFusion, model)):
        said = foveate.support(model, method)
        assert not said.works and MERGING[kind] in said.why and "language 0, work" in said.why


class Convolved(nn.Module):
    """A projector that looks at neighbours, and makes as many tokens as there were."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.linear = nn.Linear(width, out)

    def forward(self, x):
        return self.linear(self.mix(x.mT).mT)


def test_a_connector_that_looks_at_neighbours_is_refused():
    model = FAMILIES["llava"].model()
    method = sized(SpatialFusion, model)
    model.model.multi_modal_projector.pooling = nn.Identity()  # of a config that pools nothing
    assert foveate.support(model, method).works
    model.model.multi_modal_projector = Convolved(32, 64)
    assert "merges windows" in foveate.support(model, method).why


def test_onevision_fuses_small_images_and_refuses_what_it_interpolates():
    family = FAMILIES["llava_onevision"]
    model = family.model()
    foveate.compress(model, drawn(sized(SpatialFusion, model)))
    assert "interpolated" in foveate.support(model, model.model.visual_compressor).notes[0]
    with torch.no_grad():
        model(**family.inputs((TWO,)))  # several images have no tiles
        assert foveate.last_counts(model) == [4, 4]
        for prompts in [(ONE, ONE), (VIDEO,)]:  # the second image shrinks; frames are pooled
            with pytest.raises(NotImplementedError, match=r"interpolates .*language 0"):
                model(**family.inputs(prompts))


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_the_projector_is_frozen_while_its_place_is_taken(name):
    """And no longer; what a connector does before it goes on learning. What was frozen stays so."""
    model = FAMILIES[name].model()
    connector = traits.connector_of(model.model)
    first = next(iter(connector.parameters()))
    for already in (True, False):
        first.requires_grad_(already)
        before = {n: p.requires_grad for n, p in model.named_parameters()}
        foveate.compress(model, SpatialFusion.for_model(model))
        foveate.compress(model, SpatialFusion.for_model(model, hidden=8))
        projector = {id(p) for p in traits.projector_of(model.model)[0].parameters()}
        for n, p in model.named_parameters():
            want = id(p) not in projector and before.get(n, True)
            assert p.requires_grad == want, n
        foveate.compress(model, MultiBlockFusion.for_model(model))
        assert all(p.requires_grad == before[n] for n, p in model.named_parameters() if n in before)
        foveate.restore(model)
        assert {n: p.requires_grad for n, p in model.named_parameters()} == before
