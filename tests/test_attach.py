"""Life with a compressor: on, off, copied, saved, loaded, wrapped, and when something goes wrong."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial

import pytest
import torch
import unusual
from calling import fingerprint, greedy, last_words, logits, traced
from families import FAMILIES, ONE, TEXT, TWO, Prompt
from probes import Looks, PromptRows, Ragged, made, zipped
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig

import foveate
from foveate import (
    METHODS,
    Chain,
    DepthwiseConv,
    FastV,
    Identity,
    LLaVASTF,
    MultiBlockFusion,
    Pool,
    Random,
    SpatialFusion,
    Stages,
    Stride,
    VisionZip,
)
from foveate.core.compressor import language
from foveate.hosts import later, traits


@pytest.fixture
def model(family):
    return family.model()


@pytest.fixture
def used(model, inputs):
    """A model that was called before: transformers leaves lazy hooks of its own on first use."""
    model.generate(**inputs, max_new_tokens=2, output_hidden_states=True)
    return model


@pytest.fixture
def inputs(family):
    return family.inputs((ONE, TWO))


@pytest.fixture
def sizes(family):
    """Patches of each image of `inputs`."""
    return [len(sight.cells) for sight in family.sights((ONE, TWO))["image"]]


def everything(family):
    return Chain(zipped(family, 6), FastV(0.5, layer=2), Pool(2, layer=3))


def test_compress_is_in_place_and_restore_leaves_nothing(used, family, inputs):
    """Whatever was attached in between: a second method replaces the first."""
    model, kind, base = used, type(used), type(used.model).__name__
    want = logits(model, inputs)
    before = fingerprint(model)
    assert foveate.compress(model, everything(family)) is model
    assert type(model) is kind and type(model.model).__name__ == base
    assert not torch.equal(logits(model, inputs), want)
    model.generate(**inputs, max_new_tokens=2)
    foveate.compress(model, Stride(5))
    logits(model, inputs)
    assert foveate.last_counts(model) == [5, 5, 5]
    assert foveate.restore(model) is model
    assert fingerprint(model) == before
    assert torch.equal(logits(model, inputs), want)
    assert foveate.restore(model) is model  # twice does no harm


def test_the_block_ends_bare_after_an_error(used, inputs):
    """What a call leaves behind where something breaks, the ecosystem's tests show."""
    before = fingerprint(used)
    with pytest.raises(KeyError), foveate.compressed(used, Stride(5)):
        logits(used, inputs)
        raise KeyError
    assert fingerprint(used) == before


def through_torch(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_torch]
)
def test_copies_are_whole_and_independent(model, family, inputs, copied):
    foveate.compress(model, Chain(zipped(family, 6), FastV(0.5, layer=2)), positions="renumbered")
    other = copied(model)  # before the first call: transformers' own lazy hooks do not pickle
    want = logits(model, inputs)
    assert torch.equal(logits(other, inputs), want)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(logits(other, inputs), want)
    foveate.restore(model)
    assert torch.equal(logits(other, inputs), want)
    foveate.restore(other)
    assert sum(len(m._forward_pre_hooks) for m in other.modules()) == 0


SAVED = {slug: partial(made, make) for slug, make in METHODS.items()} | {
    "identity": lambda family: Identity(),
    "chain": everything,
    "stages": lambda family: Stages((0.5, Pool(4, layer=2)), (1.0, Chain(Stride(8), FastV(0.5)))),
    "2-d": lambda family: Pool(2, layer=3, dims=2),
    "random": lambda family: Random(7, layer=1, seed=5),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_brings_its_compressor_back(model, family, inputs, tmp_path, name):
    if name in ("llava_stf", "meteor") and family.projected is None:
        pytest.skip(f"{family.name}: nothing stands in the projector's place")
    if name == "tome" and not family.thins:
        pytest.skip(f"{family.name}: nothing acts in the tower")
    keys = set(model.state_dict())
    foveate.compress(model, SAVED[name](family), positions="renumbered")
    want = logits(model, inputs)
    model.save_pretrained(tmp_path)
    assert model.config.visual_compression["version"] == 1
    back = foveate.from_pretrained(tmp_path)
    assert repr(back.model.visual_compressor) == repr(model.model.visual_compressor)
    assert torch.equal(logits(back, inputs), want)
    bare = AutoModelForImageTextToText.from_pretrained(tmp_path)
    foveate.restore(model)
    assert set(bare.state_dict()) == keys
    assert torch.equal(logits(bare, inputs), logits(model, inputs))


def test_weights_of_a_compressor_are_saved_under_its_own_name(model, family, inputs, tmp_path):
    keys = set(model.state_dict())
    foveate.compress(model, Ragged())
    added = set(model.state_dict()) - keys
    assert added == {"model.visual_compressor.gate.weight", "model.visual_compressor.gate.bias"}
    with torch.no_grad():
        model.model.visual_compressor.gate.weight.mul_(2)
    want = logits(model, inputs)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Ragged.*trust=.'probes:Ragged'."):
        foveate.from_pretrained(tmp_path)
    assert torch.equal(logits(foveate.from_pretrained(tmp_path, method=Ragged()), inputs), want)
    other = Ragged()
    other.gate = torch.nn.Linear(3, 5)
    with pytest.raises(ValueError, match=r"has gate\.weight \(.*, the compressor wants \(5, 3\)"):
        foveate.from_pretrained(tmp_path, method=other)
    foveate.restore(model)
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no visual_compression"):
        foveate.from_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"lacks weights.*gate\.bias"):
        foveate.from_pretrained(tmp_path / "bare", method=Ragged())


def test_trace_has_one_step_per_prefill_and_site(model, family, inputs, sizes):
    foveate.compress(model, everything(family))
    first = "features" if family.projected is not None else "language 0"
    with foveate.trace(model) as seen:
        model.generate(**inputs, max_new_tokens=4)
        model.generate(**inputs, max_new_tokens=4)
    assert [str(s.site) for s in seen.steps] == [first, "language 2", "language 3"] * 2
    assert [s.before.tolist() for s in seen.steps[:3]] == [sizes, [6] * 3, [3] * 3]
    assert [s.after.tolist() for s in seen.steps[:3]] == [[6] * 3, [3] * 3, [2] * 3]
    assert seen.steps[0].scores.shape == seen.steps[0].owner.shape == (3, max(sizes))
    assert seen.steps[2].scores is None
    assert foveate.last_counts(model) == [2, 2, 2]
    model.generate(**inputs, max_new_tokens=1)
    assert len(seen.steps) == 6  # the block has ended


def test_random_draws_depend_on_the_sample_in_training_only(model, family):
    inputs = family.inputs((ONE,) * 7)  # the first and the last are of the same size
    foveate.compress(model, Random(4))

    def kept():
        with torch.no_grad():
            return traced(model, inputs)[1][0].owner[[0, 6]]

    still = kept()
    assert torch.equal(still[0], still[1]) and torch.equal(kept(), still)
    model.train()
    with pytest.raises(RuntimeError, match="set_progress"):
        kept()
    foveate.set_progress(model, 3, 10)
    drawn = kept()
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(kept(), drawn)
    foveate.set_progress(model, 4, 10)
    assert not torch.equal(kept(), drawn)


FLAT = Stages((0.5, Stride(4)), (0.75, FastV(6)), (1.0, Identity()))
NESTED = Stages((0.8, Stages((0.5, Stride(4)), (1.0, FastV(6)))), (1.0, Identity()))
TURNS = {
    "flat": (FLAT, {0: 4, 49: 4, 50: 6, 74: 6, 75: 99, 100: 99}),
    "nested": (NESTED, {10: 4, 60: 6, 90: 99}),
}


@pytest.mark.parametrize("name", TURNS)
def test_schedules_follow_progress_and_rest_in_evaluation(model, inputs, sizes, name):
    schedule, turns = TURNS[name]
    foveate.compress(model, copy.deepcopy(schedule))
    logits(model, inputs)
    assert foveate.last_counts(model) == sizes
    model.train()
    with pytest.raises(RuntimeError, match="set_progress"):
        model(**inputs)
    for step, count in turns.items():
        foveate.set_progress(model, step, 100)
        model(**inputs, labels=last_words(inputs))
        assert foveate.last_counts(model) == [min(count, size) for size in sizes]
    model.eval()
    logits(model, inputs)
    assert foveate.last_counts(model) == sizes


def test_a_failed_compress_leaves_the_old_method(model, family, inputs):
    foveate.compress(model, Stride(4))
    for block in traits.tower_blocks(model.model):
        names = [n for n in ("self_attn", "attn", "attention") if n in block._modules]
        block.renamed = block._modules.pop(*names)
    before = fingerprint(model)
    with pytest.raises(TypeError, match="no attention module"):
        foveate.compress(model, zipped(family, 4))
    assert fingerprint(model) == before


FITTING = {"feature_width": 32, "tower_width": 32, "feature_layer": 3}
MISFITS = {
    "width=128, the model has width=64": lambda: SpatialFusion(128, 32),
    "width=128, feature_width=48, the model has width=64, feature_width=32": lambda: Chain(
        VisionZip(8), SpatialFusion(128, 48)
    ),
    "tower_width=64, the model has tower_width=32": lambda: LLaVASTF(
        64, **FITTING | {"tower_width": 64}
    ),
    "feature_width=64, the model has feature_width=32": lambda: MultiBlockFusion(
        **FITTING | {"feature_width": 64}
    ),
    "width=32, the model has width=64": lambda: Stages(
        (0.5, DepthwiseConv(32, 4, layer=1)), (1.0, Identity())
    ),
}


@pytest.mark.parametrize("says", MISFITS)
def test_a_method_made_for_another_model_is_refused(says):
    """With the numbers, before anything is attached; `support` says the same."""
    model = FAMILIES["llava"].model()
    before = fingerprint(model)
    method = MISFITS[says]()
    with pytest.raises(ValueError, match=f"made for {says}: for_model") as raised:
        foveate.compress(model, method)
    assert fingerprint(model) == before
    assert foveate.support(model, method).why == str(raised.value)
    assert foveate.support(model, LLaVASTF(64, **FITTING)).works


def test_what_a_config_does_not_say_is_not_compared():
    model = FAMILIES["llava"].model()
    method = MultiBlockFusion(**FITTING)
    model.config.vision_config = PreTrainedConfig()
    assert foveate.support(model, method).works
    assert not foveate.support(model, SpatialFusion(128, 32)).works


def next_token(family, batch):
    """A call behind a batch of one; where models count positions themselves, they go on counting."""
    length = batch["input_ids"].shape[1]
    position = family.positions(batch).get("position_ids", torch.full((1, length), length - 1))
    given = {} if family.own_positions else {"position_ids": position[:, -1:] + 1}
    return {"input_ids": torch.tensor([[5]])} | given


def test_a_reset_cache_forgets_its_prompt(model, family):
    from transformers import StaticCache

    inputs, text = family.inputs((ONE,)), family.inputs((TEXT,))
    found = []
    for method in (None, Stride(4)):
        cache = StaticCache(traits.decoder_of(model.model).config, max_cache_len=200)
        with torch.no_grad():
            if method is not None:
                foveate.compress(model, method, "renumbered")
            model(**inputs, past_key_values=cache)
            cache.reset()
            model(**text, past_key_values=cache)
            step = next_token(family, text)
            found.append(model(**step, past_key_values=cache).logits)
    assert torch.equal(*found)


def test_a_cache_remembers_how_its_positions_were_counted(model, family):
    inputs = family.inputs((ONE,))
    step = next_token(family, inputs)
    with torch.no_grad():
        foveate.compress(model, FastV(4), "renumbered")
        caches = [model(**inputs, use_cache=True).past_key_values for _ in range(2)]
        want = model(**step, past_key_values=caches[0]).logits
        foveate.compress(model, Stride(4))
        torch.testing.assert_close(model(**step, past_key_values=caches[1]).logits, want)
        foveate.compress(foveate.restore(model), Stride(4))
        with pytest.raises(RuntimeError, match="shortened inside the language model"):
            model(**step, past_key_values=caches[0])


@pytest.mark.parametrize("make", [LLaVASTF, MultiBlockFusion, SpatialFusion, VisionZip])
@torch.no_grad()
def test_another_feature_layer_in_the_config_is_refused(make):
    """What acts on features would see others than it was made for; the rest may as well."""
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs((ONE,))
    model.config.vision_feature_layer = [1, -2]
    joined = nn.Linear(64, 64)
    model.model.multi_modal_projector.linear_1 = joined
    foveate.compress(model, make.for_model(model) if make is not VisionZip else VisionZip(4))
    model(**inputs)
    for name, value in [
        ("vision_feature_layer", [0, -2]),  # as deep, as wide
        ("vision_feature_select_strategy", "full"),
    ]:
        before = getattr(model.config, name)
        setattr(model.config, name, value)
        with pytest.raises(ValueError, match=f"{name} is .* now, and was .*: compress again"):
            model(**inputs)
        setattr(model.config, name, before)
    model.config.vision_feature_layer[0] = 2
    with pytest.raises(ValueError, match=r"is \[2, -2\] now, and was \[1, -2\]"):
        model(**inputs)
    with foveate.compressed(model, Stride(4)):
        model.config.vision_feature_layer = [0, -2]
        model(**inputs)


def test_an_image_nobody_asks_about_is_refused(model, family):
    """A later image behind an answer: no row may be read that has seen the image and no answer."""
    prompts = (Prompt((2, "i", 5, "i", 4)),)
    inputs = family.inputs(prompts)
    first, second = (stand.patches for stand in family.stands(prompts, inputs["input_ids"]))
    middle = (first[-1] + second[0]) // 2
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, middle : middle + 2] = inputs["input_ids"][:, middle : middle + 2]
    for method in (FastV(4), PromptRows(4)):
        with (
            foveate.compressed(model, method),
            pytest.raises(ValueError, match="image 1 of the batch"),
        ):
            model(**inputs, labels=labels)
    ends = family.inputs((Prompt((3, "i")),))
    with foveate.compressed(model, FastV(4)), foveate.trace(model) as seen:
        model(**ends)  # the image's own last row is the last row of the prompt
    assert (seen.steps[0].scores > 0).any()


def test_hidden_placeholders_are_refused(model, family, inputs):
    inputs["attention_mask"][inputs["input_ids"] == family.image_id] = 0
    with (
        foveate.compressed(model, Stride(4)),
        pytest.raises(ValueError, match=r"hides \d+ placeholders"),
    ):
        model(**inputs)


def test_a_padding_id_outside_the_vocabulary(model, family, inputs):
    model.config.get_text_config().pad_token_id = -1
    with foveate.compressed(model, Ragged()):
        assert torch.isfinite(logits(model, inputs)).all()


TOO_LATE = Stages((0.5, Stages((1.0, Stride(4, layer=9)))), (1.0, Identity()))
UNSEEN = Looks(language(0), ["prompt_attention"])
BROKEN = {
    "nearest: fastv": (ValueError, lambda m: foveate.compress(m, "fastvv")),
    "decoder layers 0 to 4": (ValueError, lambda m: foveate.compress(m, TOO_LATE)),
    "layer >= 1": (ValueError, lambda m: foveate.compress(m, UNSEEN)),
    "not compressed": (ValueError, foveate.last_counts),
    "is not compressed": (ValueError, lambda m: foveate.set_progress(m, 1, 2)),
}


@pytest.mark.parametrize("says", BROKEN)
def test_wrong_calls_say_so_and_leave_the_model_untouched(model, says):
    before = fingerprint(model)
    error, call = BROKEN[says]
    with pytest.raises(error, match=says):
        call(model)
    assert fingerprint(model) == before


def chunked_behind_the_image(m, x):
    return greedy(m, x, 2, prefill_chunk_size=x["input_ids"].shape[1] - 2)


def one_placeholder_more(m, x):
    x["input_ids"][0, -1] = m.config.image_token_id
    return m(**x)


def flex(m, x):
    traits.decoder_of(m.model).config._attn_implementation_internal = "flex_attention"
    return m(**x)


UNSUPPORTED = [
    ("inputs_embeds", unusual.embedded, FastV(4)),
    ("new images on a cache", unusual.an_image_later, FastV(4)),
    ("new images on a cache", unusual.an_image_later, Stride(4)),
    ("4 rows on the cache of a compressed prompt with 2", unusual.other_rows, FastV(4)),
    ("4 rows on the cache of a compressed prompt with 2", unusual.other_rows, Stride(4)),
    ("chunked prefill", unusual.in_chunks, FastV(4)),
    ("chunked prefill", unusual.in_chunks, Stride(4)),
    ("chunked prefill", chunked_behind_the_image, FastV(4)),
    ("logits_to_keep=|guessed", unusual.looked_up, FastV(4)),
    ("4-D", unusual.prepared_mask, Stride(4)),
    (r"\d+ placeholders for \d+ visual tokens of \d+ image", one_placeholder_more, Stride(4)),
    (
        r"\d+ image placeholders, but no images",
        lambda m, x: m(**{k: v for k, v in x.items() if "pixel" not in k}),
        Stride(4),
    ),
    ("labels or instruction_mask", unusual.gradients_without_labels, FastV(4)),
    ("flex_attention", flex, Stride(4)),
]
ALONE = (chunked_behind_the_image, unusual.looked_up)  # on a prompt of one image


@pytest.mark.parametrize(("says", "call", "method"), UNSUPPORTED)
def test_unsupported_calls_raise_by_name(model, family, inputs, says, call, method):
    foveate.compress(model, method)
    with pytest.raises((NotImplementedError, ValueError), match=says):
        call(model, family.inputs((ONE,)) if call in ALONE else inputs)


def test_a_call_of_the_base_model_alone_is_compressed_too(model, family, inputs):
    """Training libraries compute the loss from the base model's hidden states."""
    with foveate.compressed(model, everything(family)), torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state
        assert hidden.shape[1] == inputs["input_ids"].shape[1]
        assert torch.equal(model.lm_head(hidden), model(**inputs).logits)
        rest = {k: v for k, v in inputs.items() if k != "input_ids"}
        assert torch.equal(model(inputs["input_ids"], **rest).logits, model(**inputs).logits)


def test_tuples_come_back_as_tuples(model, family, inputs):
    with foveate.compressed(model, Ragged(layer=2)):
        loss, out, *_ = model(**inputs, labels=inputs["input_ids"], return_dict=False)
        again = model(**inputs, labels=inputs["input_ids"])
    torch.testing.assert_close(loss, again.loss)
    assert torch.equal(out, again.logits)


@pytest.mark.parametrize(
    ("method", "switches", "layered"),
    [
        (Stride(4), {}, False),
        (VisionZip(4), {"positions": "renumbered", "dropped": "merged"}, False),
        (Stride(4), {"dropped": "merged", "attention": "proportional"}, True),
        (FastV(4, layer=2), {}, True),
        (Stages((0.5, Pool(2, layer=1)), (1.0, Identity())), {}, True),
    ],
    ids=str,
)
def test_layers_where_nothing_happens_have_no_hook(method, switches, layered):
    family = FAMILIES["llava"]
    model = foveate.compress(family.model(), method, **switches)
    layers = traits.decoder_of(traits.base_of(model)).layers
    assert all(bool(layer._forward_pre_hooks) == layered for layer in layers)
    inputs = family.inputs((ONE,))
    if not layered:  # such a kernel would take gapped position ids for packed sequences
        traits.decoder_of(traits.base_of(model)).config._attn_implementation = "flash_attention_2"
        with pytest.raises(ValueError, match="compress again"):
            model(**inputs)


@pytest.mark.parametrize(
    ("prompts", "kernel", "positions", "made"),
    [
        ((ONE,), "sdpa", "original", 0),  # every layer takes what the model prepares for all
        ((ONE,), "sdpa", "renumbered", 1),
        ((ONE,), "eager", "original", 1),  # its masks are as long as a layer's cache
        ((ONE, TEXT), "sdpa", "original", 1),  # padded
    ],
)
def test_a_decoding_step_makes_nothing_for_layers_that_need_nothing(
    monkeypatch, prompts, kernel, positions, made
):
    views, view = [], later._view
    monkeypatch.setattr(later, "_view", lambda *given: views.append(1) or view(*given))
    family = FAMILIES["llava"]
    model = family.model()
    model.set_attn_implementation(kernel)
    foveate.compress(model, FastV(4, layer=2), positions)
    greedy(model, family.inputs(prompts), 4)
    assert len(views) == 3 * made  # of the first word the prompt
