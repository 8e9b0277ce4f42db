"""Calls in an order or a form that ordinary use brings along, and that were wrong once."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import unusual
from calling import close, greedy, last_words, traced
from families import FAMILIES, ONE, SHORT, TEXT, TWO, Llava, Qwen3VL
from probes import Asked, PromptRows, Reads

import foveate
from foveate import Chain, FastV, Identity, Pool, Stride, VisionZip
from foveate.hosts import traits
from foveate.hosts.rows import _runs

WORD, TILE, GLOBAL, FAKE, IMAGE, LINE = 7, 91, 94, 95, 99, 93
RUN = [IMAGE] * 4
TILES = (WORD, FAKE, TILE, *RUN, LINE, FAKE, TILE + 1, *RUN, LINE, LINE)


@pytest.fixture
def llava():
    return Llava().model()


@torch.no_grad()
def test_images_encoded_once_and_asked_about_twice(llava):
    """The second question is read, though the first prompt stands in front of it."""
    inputs = Llava().inputs((ONE,))
    foveate.compress(llava, FastV(4, layer=1))
    encoded = llava.model.get_image_features(pixel_values=inputs["pixel_values"])
    asked = torch.randint(3, 90, (1, 6), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([inputs["input_ids"], asked], dim=1)
    once = {"mm_encoder_outputs": {"image": encoded}}
    pixels = {"pixel_values": inputs["pixel_values"]}
    calls = ((inputs["input_ids"], once), (ids, once), (ids, pixels))
    first, second, want = (
        traced(llava, {"input_ids": asked} | image)[1][0].owner for asked, image in calls
    )
    assert torch.equal(second, want) and not torch.equal(first, second)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava"])
@pytest.mark.parametrize("method", [Stride(0.3), Pool(2)])
def test_guessed_tokens_are_checked_as_always(name, method):
    """Prompt lookup hands guesses to the model; what it writes is what greedy decoding writes."""
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs((ONE,))
    foveate.compress(model, method)
    guessed = greedy(model, inputs, 8, prompt_lookup_num_tokens=3)
    assert torch.equal(guessed, greedy(model, inputs, 8))


@pytest.mark.parametrize("method", [Asked, lambda: FastV(4), PromptRows, Reads])
def test_labels_that_mask_padding_alone_cover_the_question(method):
    """As TRL makes them of a conversation: every way out works, and what needs no question trains on."""
    family, model = Llava(), Llava().model().train()
    inputs = family.inputs((SHORT, ONE))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[labels == family.image_id] = -100
    foveate.compress(model, method())
    for given in (labels, inputs["input_ids"]):  # with the placeholders, or without
        with pytest.raises(
            ValueError, match=r"cover its question.*completion_only_loss.*assistant_only"
        ):
            model(**inputs, labels=given)
    model(**inputs, labels=last_words(inputs, 1))
    asked = torch.zeros_like(labels)
    asked[:, -2:-1] = 1
    model(**inputs, labels=labels, instruction_mask=asked)
    with foveate.instruction(asked):
        model(**inputs, labels=labels)
    foveate.compress(model, Stride(4))
    model(**inputs, labels=labels)


def test_an_assistant_that_is_compressed():
    """transformers gives an assistant no pixels: where nothing is dropped it drafts, else it says so."""
    main, small, family = Llava().model(), Llava().model(), Llava()
    keeping = (Identity(), FastV(1.0), Stride(1.0), Pool(1), Chain(Stride(1.0), FastV(1.0)))
    for prompts, methods in (((ONE,), keeping), ((TEXT,), (*keeping, FastV(4)))):
        inputs = family.inputs(prompts)
        want = greedy(main, inputs, 5)
        for method in methods:
            with foveate.compressed(small, method):
                assert torch.equal(greedy(main, inputs, 5, assistant_model=small), want)
    inputs = family.inputs((ONE,))
    for method in (Stride(4), FastV(4), Chain(Stride(1.0), Pool(2, layer=1)), Asked()):
        with (
            foveate.compressed(small, method),
            pytest.raises(ValueError, match=r"assistant in assisted .*restore\(assistant\)"),
        ):
            greedy(main, inputs, 5, assistant_model=small)
    foveate.compress(main, Stride(4))
    want = greedy(main, inputs, 5)
    assert torch.equal(greedy(main, inputs, 5, assistant_model=small), want)


class DeepEverywhere(Qwen3VL):
    """DeepStack in all decoder layers, or in more than there are."""

    def __init__(self, layers):
        self.layers = layers

    def config(self):
        config = super().config()
        config.vision_config.deepstack_visual_indexes = [0, 1, 2, 3]
        config.text_config.num_hidden_layers = self.layers
        return config


@pytest.mark.parametrize("layers", [3, 4, 5])
@torch.no_grad()
def test_deepstack_in_all_decoder_layers(layers):
    family = DeepEverywhere(layers)
    model, inputs = family.model(), family.inputs((ONE,))
    want = model(**inputs).logits
    for method in (FastV(1.0, layer=1), Pool(1, layer=2), Chain(Stride(1.0), FastV(1.0, layer=2))):
        found = foveate.support(model, method)
        assert found.works == (layers > 4)
        if found.works:
            with foveate.compressed(model, method):
                assert torch.equal(model(**inputs).logits, want)
            continue
        assert f"DeepStack adds 4 layers of features to {layers} decoder layers" in found.why
        with pytest.raises(NotImplementedError, match=r"DeepStack .* at language 0"):
            foveate.compress(model, method)
    foveate.compress(model, Stride(4))
    assert torch.isfinite(model(**inputs).logits).all()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_a_tapped_attention_shows_the_name_it_had(kernel):
    """Before, while and after; of copies too, and when the model's kernel is set anew."""
    model, inputs = Llava().model(kernel), Llava().inputs((ONE,))
    foveate.compress(model, Chain(VisionZip(8), FastV(4, layer=2)))
    copies = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
    tapped = model.model.visual_attachment.tapped
    assert len(tapped) == 2
    shown = []
    for module in tapped:
        module.register_forward_pre_hook(lambda m, a: shown.append(m.config._attn_implementation))
    model(**inputs)
    assert shown == [kernel] * 2
    for module in [m for one in (model, *copies) for m in one.model.visual_attachment.tapped]:
        name = module.config._attn_implementation
        assert isinstance(name, str) and str(name) == kernel and name == kernel
        assert "flash" not in name
    want = model(**inputs).logits
    other = {"sdpa": "eager", "eager": "sdpa"}[kernel]
    model.set_attn_implementation(other)
    assert [m.config._attn_implementation for m in tapped] == [other] * 2
    close(model(**inputs).logits, want)
    configs = [m.config.tapped for m in tapped]
    foveate.restore(model)
    assert [m.config for m in tapped] == configs


@torch.no_grad()
def test_continuous_batching_is_refused_and_given_back(llava):
    model, inputs = llava, Llava().inputs()
    own = vars(model).copy()
    with foveate.compressed(model, Stride(5)):
        again = pickle.loads(pickle.dumps(model))
        for one in (model, again):
            with pytest.raises(NotImplementedError, match=r"continuous batching .* vLLM"):
                one.generate_batch(inputs["input_ids"].tolist(), max_new_tokens=2)
    assert vars(model).keys() == own.keys()


def test_a_block_inside_a_block(llava):
    inputs = Llava().inputs((ONE,))
    with foveate.compressed(llava, Stride(8)):
        with foveate.trace(llava) as seen:
            with foveate.compressed(llava, Stride(2)):
                llava(**inputs)
            llava(**inputs)
        assert [step.after.item() for step in seen.steps] == [2, 8]
    assert not foveate.is_compressed(llava)


@torch.no_grad()
def test_a_prompt_without_images_leaves_no_counts(llava):
    foveate.compress(llava, Stride(3))
    llava(**Llava().inputs((TWO,)))
    assert foveate.last_counts(llava) == [3, 3]
    llava(**Llava().inputs((TEXT,)))
    assert foveate.last_counts(llava) == []


@torch.no_grad()
def test_features_encoded_for_another_method(llava):
    inputs = Llava().inputs((ONE,))
    foveate.compress(llava, Stride(4))
    encoded = llava.model.get_image_features(pixel_values=inputs["pixel_values"])
    foveate.compress(llava, VisionZip(4))
    with pytest.raises(ValueError, match="encoded while another method was attached"):
        llava(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": encoded})


@pytest.mark.parametrize(
    ("ids", "sizes"),
    [
        # Two tiles and their small copy, then an image that is no larger than a tile.
        ([*TILES, *(FAKE, GLOBAL, *RUN, FAKE, WORD, FAKE, GLOBAL, *RUN, FAKE)], [12, 4]),
        # No markers: words in front of images are no tiles.
        ([3, 4, *RUN, 5, 6, *RUN, WORD], [4, 4]),
        ([*RUN, 5, *RUN, WORD], [4, 4]),
    ],
)
def test_tiles_are_told_by_their_markers(ids, sizes):
    ids = torch.tensor([ids])
    assert _runs(ids, ids == IMAGE, marked=True) == sizes


def test_models_that_cannot_serve_say_so():
    """A projector that draws its tokens from all others, layers that keep no columns: no guess."""
    model = Llava().model()
    model.model.multi_modal_projector.resampler = torch.nn.Linear(1, 1)
    for method in (VisionZip(4), VisionZip(4, projected=True)):
        found = foveate.support(model, method)
        assert not found.works
        assert "connector" in found.why or "nothing says" in found.why
        with pytest.raises(NotImplementedError):
            foveate.compress(model, method)
    assert foveate.support(model, Stride(4)).works
    config = traits.decoder_of(model.model).config
    config.layer_types = ["full_attention", "linear_attention"] * 2 + ["full_attention"]
    assert foveate.support(model, Stride(4)).works
    assert "linear_attention" in foveate.support(model, FastV(4, layer=1)).why
    with pytest.raises(TypeError, match="no model foveate knows"):
        foveate.support(torch.nn.Linear(1, 1))


# What a compressor that keeps all refuses, though the bare model takes it: README lists these, and no other.


def features_of_the_bare_model(m, x):
    seen = Llava().model().model.get_image_features(x["pixel_values"], return_dict=True)
    return m(input_ids=x["input_ids"], mm_encoder_outputs={"image": seen})


def another_length(m, x):
    return m(**x | {"attention_mask": x["attention_mask"][:, :-1]})


def labels_over_the_question(m, x):
    return m(**x, labels=x["input_ids"])


EVERY = {
    unusual.prepared_mask: "4-D attention_mask",
    unusual.embedded: "inputs_embeds",
    features_of_the_bare_model: "did not encode for compression",
    unusual.in_chunks: "chunked prefill",
    unusual.an_image_later: "new images on a cache",
    unusual.other_rows: "2 rows on the cache",
    another_length: r"attention_mask: want \(1, 25\)",
}
READING = {
    unusual.gradients_without_labels: "training without labels",
    labels_over_the_question: "cover its question",
    unusual.looked_up: "guessed tokens",
}
OF_THE_TOWER = {unusual.another_layer: "vision_feature_layer=-3 in one call"}


@pytest.mark.parametrize("call", [*EVERY, *READING, *OF_THE_TOWER], ids=lambda c: c.__name__)
@torch.no_grad()
def test_what_keeping_all_refuses(llava, call):
    """Each of any method, of those that read the prompt, or of those that read the tower; others take it."""
    inputs = Llava().inputs((ONE,))
    call(llava.eval(), dict(inputs))  # the bare model takes it
    for method in (Stride(1.0), FastV(1.0), VisionZip(1.0)):
        says = EVERY.get(call)
        says = READING.get(call) if says is None and isinstance(method, FastV) else says
        says = OF_THE_TOWER.get(call) if says is None and isinstance(method, VisionZip) else says
        with foveate.compressed(llava.eval(), method):
            if says is None:
                call(llava, dict(inputs))
                continue
            with pytest.raises((NotImplementedError, ValueError), match=says):
                call(llava, dict(inputs))
