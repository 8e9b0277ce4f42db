"""Life with a compressor: on, off, copied, saved, loaded, wrapped, and when something goes wrong."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from families import IMAGE, ONE, SHORT, TEXT, TWO, Llava, Prompt
from probes import Asked, PromptRows, Ragged
from torch import nn
from transformers import AutoModelForImageTextToText

import foveate
from foveate import (
    METHODS,
    Chain,
    DivPrune,
    FastV,
    Identity,
    Pool,
    Random,
    Stages,
    Stride,
    VisionZip,
)


@pytest.fixture
def llava():
    return Llava().model()


@pytest.fixture
def used(llava, inputs):
    """A model that was called before: transformers leaves lazy hooks of its own on first use."""
    llava.generate(**inputs, max_new_tokens=2, output_hidden_states=True)
    return llava


@pytest.fixture
def inputs():
    return Llava().inputs((ONE, TWO))


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def fingerprint(model):
    """Everything an attachment could leave behind."""
    modules = dict(model.named_modules())
    return {
        "classes": {n: type(m) for n, m in modules.items()},
        "hooks": {
            n: (len(m._forward_pre_hooks), len(m._forward_hooks)) for n, m in modules.items()
        },
        "attributes": {n: sorted(m.__dict__) for n, m in modules.items()},
        "configs": {n: id(m.config) for n, m in modules.items() if hasattr(m, "config")},
        "config": model.config.to_dict(),
        "keys": list(model.state_dict()),
        "training": {n: m.training for n, m in modules.items()},
    }


EVERYTHING = Chain(VisionZip(8), FastV(0.5, layer=2), Pool(2, layer=3))


def test_compress_is_in_place_and_restore_leaves_nothing(used, inputs):
    model, kind = used, type(used)
    want = logits(model, inputs)
    before = fingerprint(model)
    assert foveate.compress(model, EVERYTHING) is model
    assert type(model) is kind and type(model.model).__name__ == "LlavaModel"
    assert not torch.equal(logits(model, inputs), want)
    model.generate(**inputs, max_new_tokens=2)
    assert foveate.restore(model) is model
    assert fingerprint(model) == before
    assert torch.equal(logits(model, inputs), want)
    assert foveate.restore(model) is model  # twice does no harm


def test_a_second_method_replaces_the_first(used, inputs):
    llava = used
    before = fingerprint(llava)
    foveate.compress(llava, FastV(3))
    foveate.compress(llava, Stride(5))
    logits(llava, inputs)
    assert foveate.last_counts(llava) == [5, 5, 5]
    foveate.restore(llava)
    assert fingerprint(llava) == before


def test_the_block_ends_bare_after_an_error(used, inputs):
    llava = used

    class Breaks(Stride):
        def forward(self, tokens, context):
            raise KeyError("mid-forward")

    before, want = fingerprint(llava), logits(llava, inputs)
    with pytest.raises(KeyError), foveate.compressed(llava, Breaks(5)):
        logits(llava, inputs)
    assert fingerprint(llava) == before
    foveate.compress(llava, Breaks(5))
    with pytest.raises(KeyError):
        llava.generate(**inputs, max_new_tokens=2)
    foveate.compress(llava, Stride(1.0))
    assert torch.equal(logits(llava, inputs), want)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_whole_and_independent(llava, inputs, how):
    foveate.compress(llava, Chain(VisionZip(8), FastV(0.5, layer=2)), positions="renumbered")
    # Pickled before the first call: transformers' own lazy hooks do not pickle.
    if how == "deepcopy":
        other = copy.deepcopy(llava)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(llava))
    else:
        buffer = io.BytesIO()
        torch.save(llava, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    want = logits(llava, inputs)
    assert torch.equal(logits(other, inputs), want)
    with torch.no_grad():
        for p in llava.parameters():
            p.zero_()
    assert torch.equal(logits(other, inputs), want)
    foveate.restore(llava)
    assert torch.equal(logits(other, inputs), want)
    foveate.restore(other)
    assert sum(len(m._forward_pre_hooks) for m in other.modules()) == 0


SAVED = {slug: factory() for slug, factory in METHODS.items() if slug != "identity"} | {
    "identity": Identity(),
    "chain": EVERYTHING,
    "stages": Stages((0.5, Pool(4, layer=2)), (1.0, Chain(Stride(8), FastV(0.5)))),
    "2-d": Pool(2, layer=3, dims=2),
    "random": Random(7, layer=1, seed=5),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_brings_its_compressor_back(llava, inputs, tmp_path, name):
    keys = set(llava.state_dict())
    foveate.compress(llava, SAVED[name], positions="renumbered")
    want = logits(llava, inputs)
    llava.save_pretrained(tmp_path)
    assert llava.config.visual_compression["version"] == 1
    back = foveate.from_pretrained(tmp_path)
    assert repr(back.model.visual_compressor) == repr(llava.model.visual_compressor)
    assert torch.equal(logits(back, inputs), want)
    bare = AutoModelForImageTextToText.from_pretrained(tmp_path)
    foveate.restore(llava)
    assert set(bare.state_dict()) == keys
    assert torch.equal(logits(bare, inputs), logits(llava, inputs))


def test_weights_of_a_compressor_are_saved_under_its_own_name(llava, inputs, tmp_path):
    keys = set(llava.state_dict())
    foveate.compress(llava, Ragged())
    added = set(llava.state_dict()) - keys
    assert added == {"model.visual_compressor.gate.weight", "model.visual_compressor.gate.bias"}
    with torch.no_grad():
        llava.model.visual_compressor.gate.weight.mul_(2)
    want = logits(llava, inputs)
    llava.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Ragged.*pass it as method="):
        foveate.from_pretrained(tmp_path)
    assert torch.equal(logits(foveate.from_pretrained(tmp_path, method=Ragged()), inputs), want)
    foveate.restore(llava)
    llava.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no visual_compression"):
        foveate.from_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"lacks weights.*gate\.bias"):
        foveate.from_pretrained(tmp_path / "bare", method=Ragged())


def test_dispatched_with_a_device_map(llava, inputs, tmp_path):
    """accelerate replaces forwards and moves arguments; hooks still see every call."""
    llava.save_pretrained(tmp_path)
    mapped = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map={"": "cpu"})
    from accelerate import cpu_offload

    chain = Chain(Asked(), FastV(3))  # with weights of its own, which must not be lost to "meta"
    for model in (mapped, cpu_offload(copy.deepcopy(llava))):
        foveate.compress(llava, chain)
        foveate.compress(model, copy.deepcopy(chain))
        assert torch.equal(logits(model, inputs), logits(llava, inputs))
        ids = [m.generate(**inputs, max_new_tokens=3, do_sample=False) for m in (model, llava)]
        assert torch.equal(*ids)


class Wrapped(nn.Module):
    """A linear layer as quantisation libraries wrap it: no `weight` of the usual type inside."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("packed", (linear.weight.detach() / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, (self.packed * self.scale).to(x.dtype), self.bias)


def test_eight_bit_linears(llava, inputs):
    for name, module in list(llava.model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(llava.model.get_submodule(parent), leaf, Wrapped(module))
    want = logits(llava, inputs)
    with foveate.compressed(llava, Chain(VisionZip(1.0), FastV(1.0))):
        assert torch.equal(logits(llava, inputs), want)
    with foveate.compressed(llava, EVERYTHING):
        assert torch.isfinite(logits(llava, inputs)).all()
        llava.generate(**inputs, max_new_tokens=2)


def test_threads_do_not_meet(llava):
    foveate.compress(llava, EVERYTHING)
    batches = [Llava().inputs((ONE, SHORT), seed=s) for s in range(4)]
    want = [llava.generate(**b, max_new_tokens=3, do_sample=False) for b in batches]
    got = [None] * 4

    def work(i):
        for _ in range(3):
            got[i] = llava.generate(**batches[i], max_new_tokens=3, do_sample=False)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


def test_trace_has_one_step_per_prefill_and_site(llava, inputs):
    foveate.compress(llava, EVERYTHING)
    with foveate.trace(llava) as seen:
        llava.generate(**inputs, max_new_tokens=4)
        llava.generate(**inputs, max_new_tokens=4)
    assert [str(s.site) for s in seen.steps] == ["features", "language 2", "language 3"] * 2
    assert [s.before.tolist() for s in seen.steps[:3]] == [[16] * 3, [8] * 3, [4] * 3]
    assert [s.after.tolist() for s in seen.steps[:3]] == [[8] * 3, [4] * 3, [2] * 3]
    assert seen.steps[0].scores.shape == seen.steps[0].owner.shape == (3, 16)
    assert seen.steps[2].scores is None
    assert foveate.last_counts(llava) == [2, 2, 2]
    llava.generate(**inputs, max_new_tokens=1)
    assert len(seen.steps) == 6  # the block has ended


def test_random_draws_depend_on_the_sample_in_training_only(llava):
    inputs = Llava().inputs((ONE, ONE))
    foveate.compress(llava, Random(4))

    def kept():
        with foveate.trace(llava) as seen, torch.no_grad():
            llava(**inputs)
        return seen.steps[0].owner

    still = kept()
    assert torch.equal(still[0], still[1]) and torch.equal(kept(), still)
    llava.train()
    with pytest.raises(RuntimeError, match="set_progress"):
        kept()
    foveate.set_progress(llava, 3, 10)
    drawn = kept()
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(kept(), drawn)
    foveate.set_progress(llava, 4, 10)
    assert not torch.equal(kept(), drawn)


def test_schedules_follow_progress_and_rest_in_evaluation(llava, inputs):
    foveate.compress(llava, Stages((0.5, Stride(4)), (0.75, FastV(6)), (1.0, Identity())))
    logits(llava, inputs)
    assert foveate.last_counts(llava) == [16] * 3
    llava.train()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = 5
    with pytest.raises(RuntimeError, match="set_progress"):
        llava(**inputs)
    for step, count in ((0, 4), (49, 4), (50, 6), (74, 6), (75, 16), (100, 16)):
        foveate.set_progress(llava, step, 100)
        llava(**inputs, labels=labels)
        assert foveate.last_counts(llava) == [count] * 3
    llava.eval()
    logits(llava, inputs)
    assert foveate.last_counts(llava) == [16] * 3


def test_schedules_inside_schedules(llava, inputs):
    inner = Stages((0.5, Stride(4)), (1.0, FastV(6)))
    foveate.compress(llava.train(), Stages((0.8, inner), (1.0, Identity())))
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = 5
    for step, count in ((10, 4), (60, 6), (90, 16)):
        foveate.set_progress(llava, step, 100)
        llava(**inputs, labels=labels)
        assert foveate.last_counts(llava) == [count] * 3
    with pytest.raises(ValueError, match="decoder layers 0 to 4"):
        foveate.compress(llava, Stages((0.5, Stages((1.0, Stride(4, layer=9)))), (1.0, Identity())))


def test_a_failed_compress_leaves_the_old_method(llava, inputs):
    foveate.compress(llava, Stride(4))
    for block in llava.model.vision_tower.encoder.layers:
        block.renamed = block._modules.pop("self_attn")
    before = fingerprint(llava)
    with pytest.raises(TypeError, match="no attention module"):
        foveate.compress(llava, VisionZip(4))
    assert fingerprint(llava) == before


def test_a_reset_cache_forgets_its_prompt(llava):
    from transformers import StaticCache

    inputs, text = Llava().inputs((ONE,)), Llava().inputs((TEXT,))
    found = []
    for method in (None, Stride(4)):
        cache = StaticCache(llava.model.language_model.config, max_cache_len=40)
        with torch.no_grad():
            if method is not None:
                foveate.compress(llava, method, "renumbered")
                llava(**inputs, past_key_values=cache)
                cache.reset()
            llava(**text, past_key_values=cache)
            step = {"input_ids": torch.tensor([[5]]), "position_ids": torch.tensor([[7]])}
            found.append(llava(**step, past_key_values=cache).logits)
    assert torch.equal(*found)


def test_a_cache_remembers_how_its_positions_were_counted(llava):
    inputs = Llava().inputs((ONE,))
    step = {
        "input_ids": torch.tensor([[5]]),
        "position_ids": inputs["attention_mask"].sum(1)[:, None],
    }
    with torch.no_grad():
        foveate.compress(llava, FastV(4), "renumbered")
        caches = [llava(**inputs, use_cache=True).past_key_values for _ in range(2)]
        want = llava(**step, past_key_values=caches[0]).logits
        foveate.compress(llava, Stride(4))
        torch.testing.assert_close(llava(**step, past_key_values=caches[1]).logits, want)


def test_another_feature_layer_for_one_call_is_refused(llava, inputs):
    with (
        foveate.compressed(llava, VisionZip(4)),
        pytest.raises(NotImplementedError, match="in one call"),
    ):
        llava(**inputs, vision_feature_layer=1)


def test_rows_taken_out_of_a_cache_are_refused(llava):
    inputs = Llava().inputs((SHORT, ONE))
    for method in (Stride(4), FastV(4)):
        foveate.compress(llava, method)
        cache = llava(**inputs, use_cache=True).past_key_values
        cache.batch_select_indices(torch.tensor([1]))
        with pytest.raises(
            NotImplementedError, match="1 rows on the cache of a compressed prompt with 2"
        ):
            llava(input_ids=torch.tensor([[5]]), past_key_values=cache)


def test_an_image_nobody_asks_about_is_refused(llava):
    """A later image behind an answer: no row may be read that has seen the image and no answer."""
    inputs = Llava().inputs((Prompt((2, "i", 5, "i", 4)),))
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 20:23] = inputs["input_ids"][:, 20:23]
    for method in (FastV(4), PromptRows(4)):
        with (
            foveate.compressed(llava, method),
            pytest.raises(ValueError, match="image 1 of the batch"),
        ):
            llava(**inputs, labels=labels)
    ends = Llava().inputs((Prompt((3, "i")),))
    with foveate.compressed(llava, FastV(4)), foveate.trace(llava) as seen:
        llava(**ends)  # the image's own last row is the last row of the prompt
    assert (seen.steps[0].scores > 0).any()


def test_hidden_placeholders_are_refused(llava, inputs):
    inputs["attention_mask"][inputs["input_ids"] == IMAGE] = 0
    with (
        foveate.compressed(llava, Stride(4)),
        pytest.raises(ValueError, match="hides 12 placeholders"),
    ):
        llava(**inputs)


def test_a_padding_id_outside_the_vocabulary(llava, inputs):
    llava.config.text_config.pad_token_id = -1
    with foveate.compressed(llava, Ragged()):
        assert torch.isfinite(logits(llava, inputs)).all()


BROKEN = [
    (lambda m, x: foveate.compress(m, "fastv"), TypeError, "got str"),
    (lambda m, x: foveate.compress(m.lm_head, FastV()), TypeError, "Linear is no model"),
    (lambda m, x: foveate.compress(m, FastV(layer=9)), ValueError, "decoder layers 0 to 4"),
    (lambda m, x: foveate.compress(m, FastV(), "new"), ValueError, "original, renumbered"),
    (lambda m, x: foveate.compress(m, PromptRows(layer=0)), ValueError, "layer >= 1"),
    (lambda m, x: foveate.last_counts(m), ValueError, "not compressed"),
    (lambda m, x: foveate.set_progress(m, 1, 2), ValueError, "not compressed"),
]


@pytest.mark.parametrize("case", range(len(BROKEN)))
def test_wrong_calls_say_so_and_leave_the_model_untouched(llava, inputs, case):
    before = fingerprint(llava)
    call, error, says = BROKEN[case]
    with pytest.raises(error, match=says):
        call(llava, inputs)
    assert fingerprint(llava) == before


def embeds(m, x):
    return m(inputs_embeds=torch.randn(1, 20, 64))


def turn_with_images(m, x):
    cache = m(**x, use_cache=True).past_key_values
    return m(**x, past_key_values=cache)


def chunked(m, x):
    return m.generate(**x, max_new_tokens=2, prefill_chunk_size=7)


def chunked_behind_the_image(m, x):
    return m.generate(**Llava().inputs((ONE,)), max_new_tokens=2, prefill_chunk_size=20)


def assisted(m, x):
    return m.generate(
        **Llava().inputs((ONE,)), max_new_tokens=6, prompt_lookup_num_tokens=3, do_sample=False
    )


def custom_mask(m, x):
    S = x["input_ids"].shape[1]
    return m(**{**x, "attention_mask": torch.ones(2, 1, S, S, dtype=torch.bool).tril()})


def wrong_count(m, x):
    return m(**{**x, "pixel_values": x["pixel_values"][:2]})


def no_images(m, x):
    return m(input_ids=x["input_ids"], attention_mask=x["attention_mask"])


def no_labels(m, x):
    m.train()
    return m(**x)


def flex(m, x):
    m.model.language_model.config._attn_implementation_internal = "flex_attention"
    return m(**x)


UNSUPPORTED = [
    (embeds, FastV(4), NotImplementedError, "inputs_embeds"),
    (turn_with_images, FastV(4), NotImplementedError, "new images on a cache"),
    (turn_with_images, Stride(4), NotImplementedError, "new images on a cache"),
    (chunked, FastV(4), NotImplementedError, "chunked prefill"),
    (chunked, Stride(4), NotImplementedError, "chunked prefill"),
    (chunked_behind_the_image, FastV(4), NotImplementedError, "chunked prefill"),
    (assisted, FastV(4), ValueError, "logits_to_keep=|guessed"),
    (custom_mask, Stride(4), NotImplementedError, "4-D"),
    (wrong_count, Stride(4), ValueError, "48 placeholders for 32 visual tokens of 2 images"),
    (no_images, Stride(4), ValueError, "48 image placeholders, but no images"),
    (no_labels, FastV(4), ValueError, "labels or instruction_mask"),
    (flex, Stride(4), NotImplementedError, "flex_attention"),
]


@pytest.mark.parametrize("case", range(len(UNSUPPORTED)), ids=lambda i: UNSUPPORTED[i][0].__name__)
def test_unsupported_calls_raise_by_name(llava, inputs, case):
    call, method, error, says = UNSUPPORTED[case]
    foveate.compress(llava, method)
    with pytest.raises(error, match=says):
        call(llava, inputs)


def test_a_text_only_batch_is_none_of_its_business(llava):
    inputs = Llava().inputs((TEXT,))
    want = llava.generate(**inputs, max_new_tokens=3, do_sample=False)
    with foveate.compressed(llava, EVERYTHING):
        assert torch.equal(llava.generate(**inputs, max_new_tokens=3, do_sample=False), want)


def test_a_call_of_the_base_model_alone_is_compressed_too(llava, inputs):
    """Training libraries compute the loss from the base model's hidden states."""
    with foveate.compressed(llava, EVERYTHING), torch.no_grad():
        hidden = llava.model(**inputs).last_hidden_state
        assert hidden.shape[1] == inputs["input_ids"].shape[1]
        assert torch.equal(llava.lm_head(hidden), llava(**inputs).logits)
        rest = {k: v for k, v in inputs.items() if k != "input_ids"}
        assert torch.equal(llava(inputs["input_ids"], **rest).logits, llava(**inputs).logits)


def test_tuples_come_back_as_tuples(llava, inputs):
    with foveate.compressed(llava, Ragged(layer=2)):
        loss, out, *_ = llava(**inputs, labels=inputs["input_ids"], return_dict=False)
        again = llava(**inputs, labels=inputs["input_ids"])
    torch.testing.assert_close(loss, again.loss)
    assert torch.equal(out, again.logits)


def test_chains_run_down_the_model():
    with pytest.raises(ValueError, match="runs down the model, got language 2, language 0"):
        Chain(FastV(4), DivPrune(4))
    with pytest.raises(ValueError, match="rising shares up to 1"):
        Stages((0.5, FastV(4)))


def test_lora_trains_beside_a_compressor(llava, inputs):
    from peft import LoraConfig, get_peft_model

    foveate.compress(llava, Asked())
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["visual_compressor"])
    model = get_peft_model(llava, config)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    labels[:, :-2] = -100
    model(**inputs, labels=labels).loss.backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert foveate.is_compressed(model)
    with foveate.trace(model) as seen, torch.no_grad():
        model(**inputs)
    assert len(seen.steps) == 1 and foveate.last_counts(model) == [5, 5, 5]
    assert any("visual_compressor" in n for n in trained) and any("lora" in n for n in trained)
    assert all(
        p.grad is not None
        for n, p in model.named_parameters()
        if "visual_compressor.modules_to" in n
    )
