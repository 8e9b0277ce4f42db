"""What a host does to every method alike: `dropped="merged"` and `attention="proportional"`."""

from __future__ import annotations

import pytest
import torch
import transformers
from calling import close, decoded, generated, greedy, last_words, logits, spoken, traced
from families import FAMILIES, ONE, SHORT, TWO, Llava
from oracle import reference, seen_columns
from probes import SELECT, Ragged, drawn, made

import foveate
from foveate import Chain, FastV, Identity, KMeans, LLaVASTF, Pool, PyramidDrop, Stride, VisionZip
from foveate.core.compressor import Compressor, Site, Tower
from foveate.hosts import traits

FULL = pytest.mark.full
MERGED, PROPORTIONAL = {"dropped": "merged"}, {"attention": "proportional"}
BOTH = MERGED | PROPORTIONAL
CASES = {
    "stride": (lambda: Stride(5), MERGED),
    "fastv": (lambda: FastV(0.25), MERGED),
    "two cuts": (lambda: Chain(Stride(9), FastV(0.5, layer=2)), MERGED),
    "pool": (lambda: Pool(3), PROPORTIONAL),
    "pool inside": (lambda: Pool(4, layer=2), PROPORTIONAL),
    "three cuts": (
        lambda: Chain(Pool(2), FastV(0.7, layer=1), KMeans(3, layer=3)),
        PROPORTIONAL,
    ),
    "stride, both": (lambda: Stride(5), BOTH),
    "fastv, both": (lambda: FastV(0.25), BOTH),
    "three cuts, both": (lambda: Chain(Stride(12), FastV(0.5, layer=1), Pool(2, layer=3)), BOTH),
}
# One of everything: merged before and inside, dropped tokens too.
WHOLE = CASES["three cuts, both"][0]


@pytest.mark.parametrize("positions", ["original", pytest.param("renumbered", marks=FULL)])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_prompt_is_the_references(model, family, name, padding, positions):
    """Joined, a token is the mean of what it carries; of size k, it is k tokens alike."""
    make, switches = CASES[name]
    proportional = "attention" in switches
    for prompts in family.batches().values():
        inputs = family.inputs(prompts, padding)
        stands = family.stands(prompts, inputs["input_ids"])
        with foveate.compressed(model, make(), positions, **switches):
            got, steps = traced(model, inputs)
        own = positions == "renumbered"
        want = reference(model, stands, inputs, steps, own, proportional=proportional).logits
        seen = seen_columns(stands, inputs, steps)
        close(got.logits[seen], want[seen], 2e-5)
        if "dropped" in switches:
            assert not any((step.owner == -1).any() for step in steps)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_so_is_decoding(model, family, name):
    make, switches = CASES[name]
    proportional = "attention" in switches
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        length = inputs["input_ids"].shape[1]
        with foveate.compressed(model, make(), **switches), foveate.trace(model) as seen:
            sequences, got = decoded(model, inputs, 4)
        whole = family.longer(inputs, sequences[:, :-1])
        whole |= family.positions(whole)
        stands = family.stands(prompts, whole["input_ids"][:, :length])
        want = reference(model, stands, whole, seen.steps, proportional=proportional).logits
        close(got, want[:, length - 1 :], 2e-5)


@pytest.mark.parametrize("make", [WHOLE, Ragged, lambda: Chain(Ragged(), Ragged(layer=2))])
def test_a_batch_is_each_prompt_alone(model, family, make):
    foveate.compress(model, make(), **BOTH)
    for prompts in family.batches().values():
        inputs = family.inputs(prompts)
        for i, together in enumerate(generated(model, inputs, 3)):
            close(together, generated(model, family.single(inputs, prompts, i), 3)[0], 2e-5)


@pytest.mark.parametrize("cache", ["none", "static"])
def test_any_cache(model, family, cache):
    inputs = family.inputs((ONE, TWO))
    foveate.compress(model, WHOLE(), **BOTH)
    static = {"cache_implementation": "static", "disable_compile": True}
    how = {"none": {"use_cache": False}, "static": static}[cache]
    close(generated(model, inputs, 3, **how), generated(model, inputs, 3), 2e-5)


def test_beams(model, family):
    inputs = family.inputs((ONE, SHORT))
    foveate.compress(model, WHOLE(), **BOTH)
    scored = {"return_dict_in_generate": True, "output_scores": True}
    out = greedy(model, inputs, 3, num_beams=3, **scored)
    want = spoken(model, family, inputs, out.sequences, 3, inputs["attention_mask"])
    close(out.sequences_scores, want, 1e-4)


@torch.no_grad()
def test_a_second_turn_on_the_same_cache(model, family):
    inputs = family.inputs((ONE, SHORT))
    foveate.compress(model, WHOLE(), **BOTH)
    first = greedy(model, inputs, 3, return_dict_in_generate=True)
    asked = torch.randint(3, 90, (2, 4))
    fresh = family.longer(inputs, torch.cat([first.sequences, asked], dim=1))
    fresh |= family.positions(fresh)
    turn = {name: fresh[name] for name in ("input_ids", "attention_mask")}
    got = generated(model, turn | {"past_key_values": first.past_key_values}, 1)[:, 0]
    close(got, logits(model, fresh, instruction_mask=inputs["attention_mask"])[:, -1], 2e-5)


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_gradients_are_the_references(model, family, checkpointing):
    if checkpointing and family.name == "qwen3_vl" and transformers.__version__ < "5.23":
        pytest.skip("as in test_contract.py")
    inputs = family.inputs((ONE, TWO))
    labels = last_words(inputs)
    model.train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    foveate.compress(model, WHOLE(), **BOTH)
    got, steps = traced(model, inputs, labels=labels, use_cache=False)
    got.loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    foveate.restore(model)
    model.gradient_checkpointing_disable()
    stands = family.stands((ONE, TWO), inputs["input_ids"])
    want = reference(model, stands, inputs, steps, proportional=True, labels=labels)
    want.loss.backward()
    close(got.loss, want.loss)
    scale = max(g.abs().max() for g in grads.values())
    for n, p in model.named_parameters():
        if p.grad is not None:
            assert (grads[n] - p.grad).abs().max() <= 2e-5 * scale, n


@pytest.mark.parametrize("name", SELECT)
def test_keeping_all_is_the_model_untouched(model, family, name):
    inputs, method = family.inputs((ONE, TWO)), made(SELECT[name], family)
    want = logits(model, inputs)
    foveate.compress(model, method, **BOTH)
    assert torch.equal(logits(model, inputs), want)


@pytest.mark.parametrize(
    ("make", "switch"),
    [
        (lambda: Pool(3), MERGED),
        (lambda: FastV(5), PROPORTIONAL),
        (lambda: Stride(5), PROPORTIONAL),
    ],
    ids=["drops nothing", "merges nothing", "merges nothing, before"],
)
def test_where_there_is_nothing_to_do_nothing_changes(model, family, make, switch):
    inputs, found = family.inputs((ONE, TWO)), []
    for switches in ({}, switch):
        foveate.compress(model, make(), **switches)
        found.append(generated(model, inputs, 3))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "make", [lambda: FastV(3, layer=2), lambda: PyramidDrop(3, layer=1)], ids=["before", "own"]
)
@torch.no_grad()
def test_methods_see_the_attention_there_is(make):
    """What they read behind a pool is what decoder layer 1 looks at, sizes and all."""
    inputs = Llava().inputs((ONE,))
    model = foveate.compress(Llava().model("eager"), Pool(2), **PROPORTIONAL)
    rows = model(**inputs, output_attentions=True).attentions[1][0].mean(0)
    for kernel in ("eager", "sdpa"):
        model = Llava().model(kernel)
        foveate.compress(model, Chain(Pool(2), make()), **PROPORTIONAL)
        _, (_, step) = traced(model, inputs)
        begin = int((inputs["input_ids"][0] == Llava.image_id).nonzero()[0])
        want = rows[-1, begin : begin + 8].repeat_interleave(2)
        close(step.scores[0].where(step.owner[0] >= 0, 0), want.where(step.owner[0] >= 0, 0))


def test_they_are_saved_with_the_model_and_go_with_their_block(tmp_path):
    model, inputs = Llava().model(), Llava().inputs()
    bare = logits(model, inputs)
    with foveate.compressed(model, Stride(5), **BOTH):
        want = logits(model, inputs)
        model.save_pretrained(tmp_path)
        with foveate.compressed(model, Stride(5)):
            assert not torch.equal(logits(model, inputs), want)
        assert torch.equal(logits(model, inputs), want)
    assert torch.equal(logits(model, inputs), bare)
    back = foveate.from_pretrained(tmp_path)
    said = back.config.visual_compression
    assert (said["dropped"], said["attention"]) == ("merged", "proportional")
    assert torch.equal(logits(back, inputs), want)
    foveate.compress(model, Stride(5))
    assert not {"dropped", "attention"} & model.config.visual_compression.keys()


@pytest.mark.parametrize(
    ("switch", "word"), [("dropped", "gone, merged"), ("attention", "plain, proportional")]
)
def test_other_words_are_refused(switch, word):
    model = Llava().model()
    with pytest.raises(ValueError, match=f"{switch}='all': want one of {word}"):
        foveate.compress(model, Stride(5), **{switch: "all"})
    assert not foveate.is_compressed(model)


def test_kernels_and_layers_without_such_masks_are_refused():
    model, inputs = Llava().model(), Llava().inputs()
    config = traits.decoder_of(model.model).config
    foveate.compress(model, Pool(2), **PROPORTIONAL)
    for kernel in ("flash_attention_2", "paged|sdpa"):
        config._attn_implementation = kernel
        with pytest.raises(
            NotImplementedError, match=r"attn_implementation='sdpa'|is not supported"
        ):
            logits(model, inputs)
    with pytest.raises(NotImplementedError, match="attn_implementation='sdpa'"):
        foveate.compress(model, Pool(3), **PROPORTIONAL)
    config._attn_implementation = "sdpa"
    config.layer_types = ["linear_attention"] * len(model.model.language_model.layers)
    with pytest.raises(NotImplementedError, match="linear_attention"):
        foveate.compress(model, Pool(3), **PROPORTIONAL)


class Loses(Compressor):
    """In the projector's place, half of the tokens, of another width."""

    site = Site(Tower.projector)

    def forward(self, tokens, context):
        half = tokens.where(torch.arange(tokens.x.shape[1]) % 2 == 0)
        return half.carry(half.x.new_ones(*half.x.shape[:2], 64))

    def arguments(self):
        return {}


def test_in_the_projectors_place():
    """What fuses drops nothing; what drops there has no vectors of one width to join."""
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs()
    method = drawn(made(LLaVASTF, family))
    want = logits(foveate.compress(model, method), inputs)
    assert torch.equal(logits(foveate.compress(model, method, **MERGED), inputs), want)
    foveate.compress(model, Loses(), **MERGED)
    with pytest.raises(ValueError, match="of width 32 cannot join tokens of width 64"):
        logits(model, inputs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision(attention):
    """Whole or as autocast has it: near what is computed in float32, given the same kept set."""
    model, inputs = Llava().model(attention), Llava().inputs()
    method = Chain(Pool(2), Pool(2, layer=2))
    want = logits(foveate.compress(model, method, **PROPORTIONAL), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        halves = [logits(model, inputs)]
    halves.append(logits(model.to(torch.bfloat16), inputs))
    real = inputs["attention_mask"].bool()
    for got in halves:
        error = (got.float() - want)[real].norm() / want[real].norm()
        assert error <= 2e-2, f"{error:.4f}"


def test_before_the_projector_too():
    """VisionZip drops some of the tower's tokens: every patch has an owner then."""
    model, inputs = Llava().model(), Llava().inputs()
    for method in (VisionZip(5), Identity()):
        foveate.compress(model, method, **BOTH)
        _, (step,) = traced(model, inputs)
        assert (step.owner >= 0).all()
