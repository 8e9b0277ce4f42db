"""Sizes of a model that compressors depend on: asked for by name, read from the config."""

import pytest
from families import Llava

import foveate
from foveate import METHODS, DepthwiseConv, Pool, sized
from foveate.core.sizes import scaled
from foveate.hosts import traits


def everything(width, layers, tower_width, tower_layers, feature_layer, more=0):
    return width, layers, tower_width, tower_layers, feature_layer, more


def test_they_are_those_of_every_family(family):
    model = family.model()
    width = model.get_input_embeddings().embedding_dim
    layers = len(traits.decoder_of(model.model).layers)
    blocks = traits.tower_blocks(model.model)
    got = sized(everything, model, more=1)
    want = width, layers, 32, len(blocks), traits.selected_layer(model.model), 1
    assert got == sized(everything, model.config, more=1) == want


def test_what_the_projector_reads(family):
    """Of families whose projector takes tokens one by one: what its first layer reads."""
    if family.projected is None:
        pytest.skip("no projector of single tokens")
    assert sized(lambda feature_width: feature_width, family.model()) == family.projected


def test_joined_hidden_states_lie_side_by_side():
    config = Llava().config()
    config.vision_feature_layer = [1, -2]
    got = sized(lambda feature_width, feature_layer: (feature_width, feature_layer), config)
    assert got == (64, config.vision_config.num_hidden_layers - 1)


def test_only_what_is_asked_for_and_not_given():
    model = Llava().model()
    assert sized(lambda width: width, model, width=7) == 7
    assert sized(Pool, object(), stride=2).stride == 2
    assert DepthwiseConv.for_model(model, kernel=2).width == 64
    assert DepthwiseConv.for_model(model.config).width == 64
    assert Pool.for_model(model, layer=2).site.layer == 2


def test_arguments_that_nobody_takes():
    model = Llava().model()
    words = r"LLaVASTF has no argument 'widow': nearest: window; there are width, feature_width"
    with pytest.raises(TypeError, match=words):
        foveate.LLaVASTF.for_model(model, widow=3)
    assert sized(lambda **more: more, model, anything=1) == {"anything": 1}


def test_a_model_that_does_not_say():
    config = Llava().config().get_text_config()
    assert sized(lambda width, layers: (width, layers), config) == (64, 5)
    with pytest.raises(ValueError, match=r"LlamaConfig.*vision tower: give tower_width=…"):
        sized(lambda tower_width: tower_width, config)
    with pytest.raises(TypeError, match="width comes from a model or its config, got a str"):
        sized(DepthwiseConv, "llava")


def test_depths_of_another_model():
    """max(1, ⌊K·L/32 + ½⌋), and never behind the last layer."""
    for layers in (2, 4, 5, 8, 28, 32, 40, 80):
        for layer in range(33):
            want = max(1, int(layer * layers / 32 + 0.5))
            assert scaled(layer, layers) == min(want, layers - 1)


@pytest.mark.parametrize("slug", METHODS)
def test_support_asks_a_method_of_the_models_size(slug):
    model = Llava().model()
    said = foveate.support(model)[slug]
    assert said.works and said.sites == tuple(
        str(p.site) for p in sized(METHODS[slug], model).parts()
    )
