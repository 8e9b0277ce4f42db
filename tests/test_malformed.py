"""Calls that are wrong: each gets a clear error, and the model answers as before afterwards.

hypothesis draws a valid batch, a method, and one or two of the mutations listed here; or a constructor
with a wrong argument. What the bare model refuses, a compressed one refuses too, and in words.
"""

from __future__ import annotations

import functools
import inspect
import re
from itertools import cycle

import pytest
import torch
from families import FAMILIES, MIXED, ONE, SHORT, TEXT, TOUCHING, TWO
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from probes import PromptRows, Ragged, asked, zipped

import foveate
from foveate import METHODS, Chain, FastV, Pool, Stages, Stride

ATTACHED = {
    "stride": lambda family: Stride(4),
    "fastv": lambda family: FastV(4),
    "visionzip": lambda family: zipped(family, 6),
    "ragged": lambda family: Ragged(),
    "asked": asked,
    "prompt rows": lambda family: PromptRows(0.5),
    "three sites": lambda family: Chain(zipped(family, 8), FastV(0.5, layer=2), Pool(2, layer=3)),
}
BATCHES = [(ONE,), (ONE, SHORT), (TWO, TEXT), (TOUCHING, ONE), MIXED]


# Mutations: each takes (family, batch) and returns a batch that is wrong in one way.


def placeholders(family, batch):
    """(n, 2) row and column of each placeholder."""
    return (batch["input_ids"] == family.image_id).nonzero()


def one_placeholder_less(family, batch):
    row, column = placeholders(family, batch)[0]
    ids = batch["input_ids"].clone()
    ids[row, column] = 5
    return {**batch, "input_ids": ids}


def one_placeholder_more(family, batch):
    ids = batch["input_ids"].clone()
    real = (batch["attention_mask"] == 1) & (ids != family.image_id)
    row, column = real.nonzero()[-1]
    ids[row, column] = family.image_id
    return {**batch, "input_ids": ids}


def no_placeholders(family, batch):
    ids = batch["input_ids"]
    return {**batch, "input_ids": ids.masked_fill(ids == family.image_id, 5)}


def one_placeholder_in_another_row(family, batch):
    """As many as before, but an image would stand in two prompts; with one prompt, one less."""
    rows = {int(r) for r, _ in placeholders(family, batch)}
    ids = batch["input_ids"].clone()
    if len(rows) < 2:
        return one_placeholder_less(family, batch)
    first, column = placeholders(family, batch)[0]
    ids[first, column] = 5
    last = max(rows)
    free = ((batch["attention_mask"][last] == 1) & (ids[last] != family.image_id)).nonzero()
    ids[last, free[-1]] = family.image_id
    return {**batch, "input_ids": ids}


def changed(name, how):
    """The batch with one argument changed."""
    return lambda family, batch: {k: CHANGES[how](v) if k == name else v for k, v in batch.items()}


CHANGES = {
    "doubled": lambda x: torch.cat([x, x]),
    "one more": lambda x: torch.cat([x, x[:1]]),
    "one less": lambda x: x[:-1],
    "none at all": lambda x: x[:0],
    "without a dimension": lambda x: x[0],
    "with a dimension": lambda x: x[None, None],
    # of pixels or of patches that lack a number
    "two channels": lambda x: x[..., :2, :, :] if x.dim() > 3 else x[:, :-1],
    "half a picture": lambda x: x[..., :-8, :],
    "too large": lambda x: torch.cat([x, x], dim=-1),
    "whole numbers": lambda x: x.long(),
    "fractions": lambda x: x.float(),
    "truth values": lambda x: x > 0,
    "a list": lambda x: x.tolist(),
    "text": lambda x: "a picture",
    "a column less": lambda x: x[:, :-1],
    "a column more": lambda x: torch.cat([x, x[:, -1:]], dim=1),
    "no columns": lambda x: x[:, :0],
    "negative": lambda x: -x - 1,
    "beyond the vocabulary": lambda x: x + 1000,
    "all zero": torch.zeros_like,
}
ANY = "one more, one less, none at all, a list, text"
CHANGED = {
    "pixel_values": f"{ANY}, doubled, two channels, half a picture, too large, with a dimension, "
    "whole numbers, truth values",
    "input_ids": f"{ANY}, without a dimension, with a dimension, a column less, no columns, "
    "negative, beyond the vocabulary, fractions, truth values",
    "attention_mask": f"{ANY}, without a dimension, a column less, a column more, no columns, "
    "all zero",
}


def added(name, value):
    """The batch with a further argument, which may depend on the batch."""
    return lambda family, batch: {**batch, name: value(batch) if callable(value) else value}


def without(name):
    return lambda family, batch: {k: v for k, v in batch.items() if k != name}


def size(batch):
    return batch["input_ids"].shape


EXTRAS = [
    ("unknown_argument", "one", 1),
    ("keep", "four", 4),
    ("instruction_mask", "of another shape", lambda b: torch.ones(1, 3)),
    ("instruction_mask", "all zero", lambda b: torch.zeros(size(b))),
    ("instruction_mask", "of three dimensions", lambda b: torch.ones(*size(b), 2)),
    ("instruction_mask", "of words", "the question"),
    ("labels", "of another shape", lambda b: torch.zeros(1, 3, dtype=torch.long)),
    ("labels", "beyond the vocabulary", lambda b: torch.full(size(b), 10_000)),
    ("labels", "of fractions", lambda b: torch.zeros(size(b))),
    ("labels", "of nothing", lambda b: torch.full(size(b), -100)),
    ("position_ids", "of another shape", lambda b: torch.zeros(1, 2, dtype=torch.long)),
    ("position_ids", "of two axes", lambda b: torch.zeros(2, *size(b), dtype=torch.long)),
    ("position_ids", "below zero", lambda b: -torch.ones(size(b), dtype=torch.long)),
    ("inputs_embeds", "beside ids", lambda b: torch.zeros(*size(b), 64)),
    ("inputs_embeds", "too narrow", lambda b: torch.zeros(*size(b), 63)),
    ("past_key_values", "a number", 5),
    ("logits_to_keep", "too many", 10_000),
    ("logits_to_keep", "below zero", -1),
    ("logits_to_keep", "a word", "all"),
    ("vision_feature_layer", "beyond depth", 77),
    ("vision_feature_layer", "a word", "last"),
    ("mm_encoder_outputs", "a number", {"image": 5}),
    ("mm_encoder_outputs", "of nothing", {"image": None}),
]
MUTATIONS = {
    "one placeholder less": one_placeholder_less,
    "one placeholder more": one_placeholder_more,
    "no placeholders": no_placeholders,
    "one placeholder in another row": one_placeholder_in_another_row,
    "without input_ids": without("input_ids"),
    "without pixel_values": without("pixel_values"),
    **{f"{k} {how}": changed(k, how) for k, all_ in CHANGED.items() for how in all_.split(", ")},
    **{f"with {name} {what}": added(name, value) for name, what, value in EXTRAS},
}


# The verdict.

OURS = (ValueError, TypeError, NotImplementedError)
THEIRS = (*OURS, IndexError, RuntimeError, AttributeError, KeyError, OverflowError)
SAYS = r"\d|[a-z]_[a-z]|placeholder|image|got "  # a number, an argument, or what is amiss


def forward(model, batch):
    return model(**batch).logits


def generate(model, batch):
    return model.generate(**batch, max_new_tokens=2, do_sample=False)


def answer(how, model, batch):
    """What comes out: a tensor, or the error."""
    # generate writes into the dictionaries it is given.
    batch = {name: dict(v) if isinstance(v, dict) else v for name, v in batch.items()}
    try:
        with torch.no_grad():
            return how(model, batch)
    except Exception as error:
        return error


@functools.cache
def attached(name, method):
    """A compressed model, and what it says to each valid batch."""
    family = FAMILIES[name]
    model = foveate.compress(family.model(), ATTACHED[method](family))
    return model, {b: answer(forward, model, family.inputs(b)) for b in BATCHES}


@functools.cache
def bare(name):
    return FAMILIES[name].model()


def clear(error: Exception, refused: list) -> bool:
    """Whether an error says what is wrong: one of ours in so many words, or the bare model's own."""
    if isinstance(error, OURS) and re.search(SAYS, str(error)):
        return True
    # torch's errors speak of functions nobody called: fine only where the bare model's do too.
    known = isinstance(error, THEIRS) and type(error) in map(type, refused)
    return known and bool(str(error))


def mutated(family, prompts, names) -> dict:
    batch = family.inputs(prompts)
    for name in names:
        batch = MUTATIONS[name](family, batch)
    return batch


def check(family, method, prompts, names, how=forward):
    """A mutated batch gets a clear error or an answer like the bare model's; the next one is right."""
    model, valid = attached(family.name, method)
    batch = mutated(family, prompts, names)
    got, want = answer(how, model, batch), answer(how, bare(family.name), batch)
    note = f"{method}, {prompts}, {names}: {got!r:.300}; the bare model: {want!r:.300}"
    if isinstance(got, Exception):
        # Of two mistakes, either may be noticed first.
        alone = [mutated(family, prompts, [name]) for name in names if len(names) > 1]
        assert clear(got, [want, *(answer(how, bare(family.name), b) for b in alone)]), note
    else:
        assert not isinstance(want, Exception), f"accepts what the bare model refuses: {note}"
        assert got.shape == want.shape, note
        assert torch.isfinite(got).all() or not torch.isfinite(want).all(), note
    again = answer(forward, model, family.inputs(prompts))
    assert torch.equal(again, valid[prompts]), f"another answer after {note}"


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_single_mistake_is_told(family, name):
    for method, prompts in zip(cycle(("stride", "fastv", "asked")), BATCHES[:4], strict=False):
        check(family, method, prompts, [name])


DRAWN = given(
    name=st.sampled_from(sorted(FAMILIES)),
    method=st.sampled_from(sorted(ATTACHED)),
    prompts=st.sampled_from(BATCHES),
    names=st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=2, unique=True),
    how=st.sampled_from([forward, generate]),
)


@pytest.mark.slow
@settings(max_examples=75, derandomize=True, deadline=None, database=None)
@DRAWN
def test_malformed_calls(name, method, prompts, names, how):
    refused_as_drawn(name, method, prompts, names, how)


@pytest.mark.full
@settings(max_examples=1000, deadline=None, database=None)
@DRAWN
def test_a_thousand_malformed_calls(name, method, prompts, names, how):
    refused_as_drawn(name, method, prompts, names, how)


def refused_as_drawn(name, method, prompts, names, how):
    try:
        mutated(FAMILIES[name], prompts, names)
    except Exception:
        assume(False)  # the second mistake cannot be made after the first
    check(FAMILIES[name], method, prompts, names, how)


# Methods that cannot be, and models that are none.

NAN = float("nan")
WRONG = {
    "keep": [0, -1, -0.5, 0.0, 1.5, NAN, float("inf"), True, None, "8", "", [4], (), {}, 1j, b"8"],
    "layer": [-1, -100, 1.0, 0.5, True, None, "2", [1], NAN, 1j],
}
STRIDES = [0, -3, 1.5, True, "4", [2], NAN]


def factories(argument):
    """Methods whose factory takes this argument."""
    return [s for s, make in METHODS.items() if argument in inspect.signature(make).parameters]


def told(call, value, *errors):
    """The call is refused, and the message shows what was given."""
    with pytest.raises(errors or (ValueError, TypeError)) as seen:
        call()
    assert any(shown in str(seen.value) for shown in (repr(value), str(value), "got"))


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(name=st.sampled_from(sorted(WRONG)), data=st.data())
def test_budgets_and_layers_that_cannot_be(name, data):
    slug, value = (
        data.draw(st.sampled_from(factories(name))),
        data.draw(st.sampled_from(WRONG[name])),
    )
    default = inspect.signature(METHODS[slug]).parameters[name].default
    assume(value is not None or default is not None)
    told(lambda: METHODS[slug](**{name: value}), value)


@pytest.mark.parametrize("name", ["ratio", "rate", "kepe", "Keep", "0"])
@pytest.mark.parametrize("slug", METHODS)
def test_arguments_nobody_knows(slug, name):
    told(lambda: METHODS[slug](**{name: 1}), name)


@pytest.mark.parametrize("stride", STRIDES, ids=repr)
def test_strides_that_cannot_be(stride):
    told(lambda: Pool(stride), stride)


@pytest.mark.parametrize("layer", [5, 6, 40, 10**9])
@pytest.mark.parametrize("slug", factories("layer"))
def test_layers_beyond_the_model(family, slug, layer):
    model = bare(family.name)
    keys, depth = set(model.state_dict()), family.layers
    told(
        lambda: foveate.compress(model, foveate.sized(METHODS[slug], model, layer=layer)),
        f"0 to {depth - 1}",
        ValueError,
    )
    assert not foveate.is_compressed(model) and set(model.state_dict()) == keys


COMPOSED = {
    "a chain of a number": lambda: Chain(1),
    "a chain of a class": lambda: Chain(Stride),
    "a chain of nothing in particular": lambda: Chain(None),
    "runs down the model, got language 2, language 0": lambda: Chain(FastV(4), Stride(4)),
    "a chain of a schedule": lambda: Chain(Stages((1.0, Stride(4)))),
    "stages of nothing": lambda: Stages(),
    "stages that fall": lambda: Stages((0.5, Stride(4)), (0.2, Stride(2)), (1.0, Stride(1))),
    "rising shares up to 1": lambda: Stages((0.5, Stride(4))),
    "stages beyond the end": lambda: Stages((0.5, Stride(4)), (2.0, Stride(2))),
    "stages without a share": lambda: Stages(Stride(4)),
    "stages of a word": lambda: Stages(("half", Stride(4)), (1.0, Stride(2))),
    "stages without methods": lambda: Stages((0.5, None), (1.0, None)),
    "stages at no time": lambda: Stages((NAN, Stride(4)), (1.0, Stride(2))),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_that_cannot_be(name):
    with pytest.raises((ValueError, TypeError)) as seen:
        COMPOSED[name]()
    told = name if name.startswith(("runs", "rising")) else "chain|stage|schedule|site"
    assert re.search(told, str(seen.value))


TARGETS = {
    "nothing": lambda m: None,
    "a word": lambda m: "llava",
    "a class": type,
    "the head": lambda m: m.lm_head,
    "the base model": lambda m: m.model,
    "the language model": lambda m: m.model.language_model,
    "a list": lambda m: [m],
}
ATTACHABLE = [None, ["fastv"], 5, Stride, FastV, [Stride(4)], {}, torch.nn.Identity(), lambda x: x]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("call", ["compress", "restore", "last_counts", "trace", "set_progress"])
def test_models_that_are_none(name, call):
    model = FAMILIES["llava"].model()
    calls = {
        "compress": lambda m: foveate.compress(m, Stride(4)),
        "restore": foveate.restore,
        "last_counts": foveate.last_counts,
        "trace": lambda m: foveate.trace(m).__enter__(),
        "set_progress": lambda m: foveate.set_progress(m, 1, 2),
    }
    with pytest.raises(TypeError, match="no model foveate knows"):
        calls[call](TARGETS[name](model))
    assert not foveate.is_compressed(model)


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(
    method=st.sampled_from(ATTACHABLE),
    positions=st.sampled_from(["original", "renumbered", "", None, "Original", 1, ["original"]]),
    before=st.sampled_from(["stride", "fastv"]),
)
def test_what_cannot_be_attached_leaves_what_was(method, positions, before):
    model, valid = attached("llava", before)
    with pytest.raises(TypeError, match=r"want a foveate\.Compressor"):
        foveate.compress(model, method, positions)
    assert repr(model.model.visual_compressor) == repr(ATTACHED[before](FAMILIES["llava"]))
    assert torch.equal(answer(forward, model, FAMILIES["llava"].inputs((ONE,))), valid[(ONE,)])


@pytest.mark.parametrize("positions", ["", None, "Original", 1, True, ["original"], {}])
def test_positions_nobody_counts(positions):
    model = bare("llava")
    with pytest.raises(ValueError, match="want one of original, renumbered"):
        foveate.compress(model, Stride(4), positions)
    assert not foveate.is_compressed(model)


STEPS = [(-1, 10), (11, 10), (0, 0), (1, -1), ("a", 10), (None, 10), (NAN, 10), (5, None)]
STEPS = {f"step {step!r} of {of!r}": (step, of) for step, of in STEPS}


@pytest.mark.parametrize("name", STEPS)
def test_progress_that_cannot_be(name):
    model, _ = attached("llava", "stride")
    with pytest.raises((ValueError, TypeError), match="step="):
        foveate.set_progress(model, *STEPS[name])
    assert model.model.visual_attachment.step is None
