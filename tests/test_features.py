"""Images without a prompt: the tokens are those that `compress` puts into the language model, bit for bit."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, ONE, TWO, VIDEO, Qwen3VL

import foveate
from foveate import CDPruner, DivPrune, FastV, LLaVASTF, Pool, PruMerge, VisionZip, sized
from foveate.hosts import traits
from foveate.hosts.features import check, features
from foveate.methods import METHODS

TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
MAKE = {
    "divprune": lambda model: DivPrune(keep=6),
    "pool": lambda model: Pool(3),
    "visionzip": lambda model: VisionZip(keep=5, projected=True),
    "prumerge": lambda model: PruMerge(projected=True),  # of each image another number
    "tome": lambda model: sized(METHODS["tome"], model, keep=0.5),  # in the tower
    "llava_stf": LLaVASTF.for_model,  # in the projector's place
}
SERVED = [name for name in FAMILIES if name != "qwen3_vl"]  # its DeepStack is refused


def entered(model, batch):
    """The visual tokens that enter the language model, and their position ids (A, M)."""
    base, seen = model.model, {}

    def note_ids(_, args, kwargs):
        seen["visual"] = traits.is_visual(base, kwargs["input_ids"])[0]

    def note(_, args, kwargs):
        seen["x"] = kwargs["inputs_embeds"][0, seen["visual"]]
        seen["position"] = kwargs["position_ids"][..., seen["visual"]]

    handles = [
        base.register_forward_pre_hook(note_ids, with_kwargs=True),
        traits.decoder_of(base).register_forward_pre_hook(note, with_kwargs=True),
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen["x"], seen["position"]


def without_prompt(family, prompt):
    """A call, and what of it the feature function takes; of each image how many placeholders it has."""
    batch = family.inputs((prompt,))
    (row,) = family.visuals((prompt,), torch.Generator())
    token = family.video_id if prompt.videos else family.image_id
    sizes = [n for v in row for n in [v.ids.count(token) // v.images] * v.images]
    return batch, sizes, {name: value for name, value in batch.items() if name not in TOKENS}


@pytest.mark.parametrize("method", MAKE)
@pytest.mark.parametrize("name", SERVED)
def test_the_same_tokens_as_in_a_prompt(name, method):
    family = FAMILIES[name]
    model = family.model()
    made = MAKE[method](model)
    if not (works := foveate.support(model, made)).works:
        pytest.skip(works.why)
    for prompt in (ONE, TWO):
        batch, sizes, given = without_prompt(family, prompt)
        found = features(model.model, made, sizes, **given)
        with foveate.compressed(model, made, newlines="none"):
            x, position = entered(model, batch)
        torch.testing.assert_close(torch.cat([x for x, _ in found]), x, rtol=0, atol=0)
        columns = (batch["input_ids"][0] == family.image_id).nonzero()[:, 0]
        if not family.own_positions and columns.diff().max() == 1:  # no text between the patches
            first = columns[0] + traits.first_position(model.model)
            assert position.flatten().tolist() == (found[0][1][0] + first).tolist()


@pytest.mark.parametrize("name", ["video_llava", "llava_onevision", "qwen2_5_vl"])
def test_a_video_without_a_prompt(name):
    family = FAMILIES[name]
    model = family.model()
    batch, sizes, given = without_prompt(family, VIDEO)
    timing = "second_per_grid_ts"
    given = {n: value for n, value in given.items() if n != timing}
    (found,) = features(model.model, DivPrune(keep=6), sizes, "video", **given)
    with foveate.compressed(model, DivPrune(keep=6), newlines="none"):
        x, _ = entered(model, batch)
    torch.testing.assert_close(found[0], x, rtol=0, atol=0)


def test_the_model_is_what_it_was():
    family = FAMILIES["llava"]
    model = family.model()
    _, sizes, given = without_prompt(family, ONE)
    model.get_image_features(**given)  # transformers leaves hooks of its own on first use
    before = {name: (type(m), vars(m).get("config")) for name, m in model.named_modules()}
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    tome = MAKE["tome"](model)
    features(model.model, VisionZip(keep=5), sizes, **given)
    features(model.model, tome, sizes, **given)
    with pytest.raises(ValueError, match=r"16 visual tokens for images of \[7\]: they must match"):
        features(model.model, VisionZip(keep=5), [7], **given)
    assert before == {name: (type(m), vars(m).get("config")) for name, m in model.named_modules()}
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (FastV(keep=4), "FastV acts before decoder layer 2"),
        (CDPruner(keep=4), "CDPruner reads the question"),
        (foveate.Chain(DivPrune(8), Pool(2, layer=1)), "Pool acts before decoder layer 1"),
    ],
)
def test_what_asks_for_more_than_an_image_is_refused(method, said):
    with pytest.raises(ValueError, match=said):
        check(method)


def test_deep_features_are_refused():
    model = Qwen3VL().model()
    _, sizes, given = without_prompt(Qwen3VL(), ONE)
    with pytest.raises(
        NotImplementedError, match="DeepStack adds features behind 3 decoder layers"
    ):
        features(model.model, DivPrune(keep=4), sizes, **given)
