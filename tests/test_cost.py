"""Costs against torch's own counter, and against numbers worked out by hand."""

import pytest
import torch
from families import FAMILIES, LAYERS, ONE
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import foveate
from foveate import (
    DART,
    FastV,
    HiPrune,
    Pool,
    PruMerge,
    PyramidDrop,
    Stride,
    V2Drop,
    VisionZip,
    VisPruner,
    sized,
)
from foveate.bench import CONFIGS
from foveate.hosts import traits
from foveate.hosts.cost import Load, cost, own_macs, skeleton, watch
from foveate.methods import METHODS

LLAVA = FAMILIES["llava"]
TEXT, PATCHES = 9, 16
ROTARY = ("rotary_emb", "rotary_pos_emb", "patch_positional_embedding")


def counted(model, inputs):
    def attention(query, key, value, *_, **__):
        return sdpa_flop_count(query, key, value)

    # torch leaves its own CPU kernel out of the count.
    cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=cpu) as counter, torch.no_grad():
        model(**inputs, logits_to_keep=1)
    # transformers 5.18 turns positions into angles by a matrix product of one column.
    parts = counter.get_flop_counts().items()
    angles = sum(sum(ops.values()) for name, ops in parts if name.endswith(ROTARY))
    return (counter.get_total_flops() - angles) // 2


def seen(model, inputs=None):
    """The load of one of Llava's prompts."""
    inputs = LLAVA.inputs([ONE]) if inputs is None else inputs
    return watch(model, TEXT, lambda: model(**inputs))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "method",
    [
        *(Stride(0.25), Stride(4, layer=3), FastV(0.5, layer=2), Pool(4), VisionZip(8)),
        *(PyramidDrop(0.5, layer=2), DART(6), V2Drop(4, layer=3)),
    ],
)
def test_a_compressed_model_costs_what_torch_counts(attention, method):
    model, inputs = LLAVA.model(attention), LLAVA.inputs([ONE])
    foveate.compress(model, method)
    own = own_macs(model, lambda: model(**inputs))
    mine = cost(model, seen(model), method.parts(), own, causal=False)
    assert mine.total == counted(model, inputs)


@pytest.mark.parametrize("only", [None, "stf", "mbtf"])
def test_what_stands_in_the_projectors_place_is_the_connector(only):
    model, inputs = LLAVA.model(), LLAVA.inputs([ONE])
    bare = cost(model, seen(model))
    method = foveate.sized(METHODS["llava_stf"], model, only=only)
    foveate.compress(model, method)
    own = own_macs(model, lambda: model(**inputs))
    mine = cost(model, seen(model), method.parts(), own, causal=False)
    tokens = PATCHES // 4 if only == "stf" else PATCHES
    weights = {n: p.numel() for n, p in method.named_parameters() if p.dim() == 2}
    by_hand = sum(m * (PATCHES // 4 if "spatial" in n else tokens) for n, m in weights.items())
    assert mine.scorer == 0 and own == (by_hand, 0)
    assert mine.connector == by_hand + (bare.connector if only == "mbtf" else 0)
    assert mine.total == counted(model, inputs)


def test_a_chain_of_cuts_shortens_layer_by_layer():
    model = LLAVA.model()
    foveate.compress(model, foveate.Chain(Stride(8), Stride(4, layer=1), FastV(2, layer=3)))
    at = seen(model)
    assert at.visual == (8, 4, 4, 2, 2) and at.lengths == tuple(TEXT + n for n in at.visual)
    assert at.rows["multi_modal_projector.linear_1"] == PATCHES
    assert set(at.pairs.values()) == {(PATCHES + 1) ** 2}
    assert at.equivalent == 4.0


def test_compression_before_the_projector_projects_only_what_is_kept():
    model = LLAVA.model()
    foveate.compress(model, VisionZip(8))
    assert seen(model).rows["multi_modal_projector.linear_2"] == 8


def test_cache_bytes_are_those_of_the_cache():
    model, inputs = LLAVA.model(), LLAVA.inputs([ONE])
    foveate.compress(model, FastV(4, layer=2))
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    held = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    assert cost(model, seen(model)).kv_bytes == held


def test_only_the_rows_asked_for_are_the_scorers():
    model = LLAVA.model()
    at = seen(model)
    assert cost(model, at, [FastV(0.5)]).scorer == (TEXT + PATCHES) * 64
    assert cost(model, at, [VisionZip(8)]).scorer == (PATCHES + 1) * 32
    assert cost(model, at, [PruMerge(), VisPruner()]).scorer == 2 * (PATCHES + 1) * 32
    of_all = sized(HiPrune, model)  # every row of two blocks
    assert cost(model, at, [of_all]).scorer == 2 * (PATCHES + 1) ** 2 * 32
    assert cost(model, at, [Stride(0.5)]).scorer == 0


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_costs_what_torch_counts(name, attention):
    model, inputs = FAMILIES[name].model(attention), FAMILIES[name].inputs([ONE])
    text = int((inputs["input_ids"] != traits.placeholder_id(model.model)).sum())
    at = watch(model, text, lambda: model(**inputs, logits_to_keep=1))
    mine = cost(model, at, causal=False)
    assert len(at.lengths) == len(traits.decoder_of(model.model).layers)
    assert min(mine.vision, mine.connector, mine.language) > 0
    assert mine.total == counted(model, inputs)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    held = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    assert mine.kv_bytes == held


def test_a_sliding_window_bounds_pairs_and_cache():
    model = FAMILIES["gemma3"].model()
    layers = traits.decoder_of(model.model).layers
    windows = [traits.attention_of(layer).sliding_window for layer in layers]
    n = max(w for w in windows if w) * 2
    mine, one = (cost(model, Load({}, {}, (k,) * len(layers), 0)) for k in (n, 1))
    text = model.config.get_text_config()
    width = text.num_attention_heads * text.head_dim
    held = sum(min(n, (w or n + 1) - 1) for w in windows)
    assert mine.kv_bytes == held * one.kv_bytes // len(layers)
    pairs = sum(sum(min(i, w or n) for i in range(1, n + 1)) for w in windows)
    head = text.hidden_size * text.vocab_size
    linear = (one.language - head - 2 * width * len(layers)) * n
    assert mine.language == linear + 2 * width * pairs + head


def test_llava_7b_by_hand():
    """4.22 TMAC for 576 + 60 tokens in the layers of LLaVA-1.5-7B, 0.5 MiB of cache a token."""
    model = skeleton(CONFIGS["llava-1.5-7b"].config(), torch.float16)
    mine = cost(model, Load({}, {}, (576 + 60,) * 32, 60), causal=False)
    assert (mine.language - 4096 * 32064) / 1e12 == pytest.approx(4.22, abs=0.005)
    assert mine.kv_bytes == (576 + 60) * 2**19
    assert mine.flops == 2 * mine.total == mine.as_dict()["flops"]
    assert LAYERS == 5  # the small model above, whose visual counts are written out
