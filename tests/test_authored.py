"""What whoever writes a compressor is told: each fault in one sentence, with the class and what is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import FAMILIES, ONE, SHORT
from probes import Asked, Ragged

import foveate
from foveate import Chain, Compressor, FastV, Site, Stages, Stride, Tower, VisualTokens
from foveate.core.compressor import language, spans


class Mine(Compressor):
    """Whole; each case below spoils one thing."""

    selects = True

    def __init__(self, keep: int = 4):
        super().__init__()
        self.keep = keep

    def forward(self, tokens, context):
        return tokens.where(torch.arange(tokens.x.shape[1]) < self.keep)

    def arguments(self):
        return {"keep": self.keep}


def spoiled(**changes):
    return type("Mine", (Mine,), changes)()


class Silent(Compressor):
    def forward(self, tokens, context):
        return tokens


class Idle(Compressor):
    def arguments(self):
        return {}


class Unborn(Mine):
    def __init__(self):
        self.keep = 4


@dataclasses.dataclass
class Listed(Compressor):
    keep: int = 4
    forward, arguments = Mine.forward, Mine.arguments


@dataclasses.dataclass
class Equal(Listed):
    def __post_init__(self):
        Compressor.__init__(self)


# What is known before any forward.
UNFIT = {
    "Silent has no arguments()": Silent,
    "Idle has no forward()": Idle,
    "Unborn.__init__ must call super().__init__()": Unborn,
    "Listed.__init__ must call super().__init__()": Listed,
    "Equal cannot be hashed, as a dataclass with eq": Equal,
    "Mine.forward must take (tokens, context)": lambda: spoiled(
        forward=lambda self, tokens: tokens
    ),
    "Mine.site is 'language 2': want a Site": lambda: spoiled(site="language 2"),
    "Mine.site is ('language', 2): want a Site": lambda: spoiled(site=("language", 2)),
    "Mine.site is Site(tower='language', layer=2): want": lambda: spoiled(site=Site("language", 2)),
    "layer=-1): want a Site": lambda: spoiled(site=Site(Tower.language, -1)),
    "Mine.site is None": lambda: spoiled(site=None),
    "Mine.needs is ('grid',): want names in a set": lambda: spoiled(needs=("grid",)),
    "Mine.needs is 'grid'": lambda: spoiled(needs="grid"),
    "Mine.needs has 'last_atention': nearest: last_attention; there are text": lambda: spoiled(
        needs={"last_atention"}
    ),
    "Mine.needs has '7'": lambda: spoiled(needs={7}),
    "Mine.optional has 'grid': there are text, text_mask": lambda: spoiled(
        needs={"grid"}, optional={"grid"}
    ),
    "Mine needs 'features', and its vision_layers": lambda: spoiled(needs={"features"}),
    "Mine needs 'received', and its vision_blocks": lambda: spoiled(needs={"received"}),
    "vision_blocks has -9: the tower has blocks 0 to": lambda: spoiled(
        needs={"attentions"}, vision_blocks=(0, -9)
    ),
    "Mine.arguments() gave NoneType": lambda: spoiled(arguments=lambda self: None),
    "Mine.arguments() has 'k', which Mine.__init__ does not take: it takes keep": lambda: spoiled(
        arguments=lambda self: {"k": 4}
    ),
    "Mine.arguments() has keep, a float32 tensor (2,): want what JSON": lambda: spoiled(
        arguments=lambda self: {"keep": torch.ones(2)}
    ),
}


@pytest.fixture(scope="module")
def model():
    return FAMILIES["llava"].model()


@pytest.fixture(scope="module")
def inputs():
    return FAMILIES["llava"].inputs((ONE, SHORT))


@pytest.mark.parametrize("says", UNFIT)
def test_what_is_missing_is_told_before_any_forward(model, says):
    """By compress, in a chain, in a schedule; by support, without an exception."""
    method = UNFIT[says]()
    keys = set(model.state_dict())
    for whole in (
        lambda: method,
        lambda: Chain(method, FastV(4)),
        lambda: Stages((0.5, method), (1.0, Stride(4))),
    ):
        with pytest.raises((TypeError, ValueError)) as seen:
            foveate.compress(model, whole())
        assert says in str(seen.value) and "\n" not in str(seen.value)
        assert not foveate.is_compressed(model) and set(model.state_dict()) == keys
    if "site" not in says:  # where it stands is all that support can say of it
        found = foveate.support(model, method)
        assert not found.works and says in found.why


def some(tokens, **changes):
    return dataclasses.replace(tokens.where(torch.arange(tokens.x.shape[1]) < 5), **changes)


RETURNS = {
    "returned nothing": lambda t: None,
    "returned a float32 tensor (2, 16, 64): want VisualTokens": lambda t: t.x,
    "returned tuple": lambda t: (t.x, t.owner),
    "returned x=NoneType": lambda t: some(t, x=None),
    "x (5, 64): want (2, at most 16, 64)": lambda t: some(t, x=some(t).x[0]),
    "x (1, 5, 64): want (2, at most 16, 64)": lambda t: some(t, x=some(t).x[:1]),
    "x (2, 5, 32): want (2, at most 16, 64)": lambda t: some(t, x=some(t).x[..., ::2]),
    "returned valid (2, 16): want (2, 5)": lambda t: some(t, valid=t.valid),
    "returned owner (2, 5): want (2, 16)": lambda t: some(t, owner=some(t).owner[:, :5]),
    "returned 32 tokens of 16": lambda t: VisualTokens(
        torch.cat([t.x, t.x], 1), t.owner, torch.cat([t.valid, t.valid], 1)
    ),
    "returned owner up to 15, of 5 tokens": lambda t: some(t, owner=t.owner),
    "valid tokens that carry no patch": lambda t: some(t, owner=some(t).owner.clamp(max=3)),
    "patches of tokens that are not valid": lambda t: some(t, valid=some(t).valid & False),
    "out of the order of their first patches": lambda t: VisualTokens(
        t.x.flip(1), t.owner.flip(1), t.valid
    ),
    "returned x of torch.float64: want torch.float32": lambda t: some(t, x=some(t).x.double()),
    "returned x of torch.int64": lambda t: some(t, x=some(t).x.long()),
    "returned owner of torch.int32: want torch.int64": lambda t: some(t, owner=t.owner.int()),
    "returned valid of torch.int64: want torch.bool": lambda t: some(t, valid=some(t).valid.long()),
    "returned x on meta: want cpu": lambda t: some(t, x=some(t).x.to("meta")),
    "returned a penalty (5,): want one number": lambda t: some(t, penalty=torch.zeros(5)),
}


@pytest.mark.parametrize(
    "site", [language(0), language(2), Site(Tower.features), Site(Tower.vision, 1)], ids=str
)
@pytest.mark.parametrize("says", RETURNS)
def test_what_comes_back_wrong_is_told_by_the_class(model, inputs, says, site):
    wrong = RETURNS[says]
    method = spoiled(forward=lambda self, tokens, context: wrong(tokens), site=site)
    if site.tower < Tower.language:
        says = says.replace("(2, 5, 32)", "(2, 5, 16)").replace("64)", "32)")
    with foveate.compressed(model, method), pytest.raises((TypeError, ValueError)) as seen:
        model(**inputs)
    assert "Mine.forward" in str(seen.value) and says in str(seen.value)
    assert "\n" not in str(seen.value)


def test_in_the_projectors_place_the_width_is_the_language_models(model, inputs):
    method = spoiled(site=Site(Tower.projector))
    with (
        foveate.compressed(model, method),
        pytest.raises(ValueError, match=r"x \(2, 4, 32\): want \(2, at most 16, 64\)"),
    ):
        model(**inputs)
    with foveate.compressed(model, Asked()):
        model(**inputs)


def helped(context):
    return context.grid.shape


@pytest.mark.parametrize(
    ("field", "reads"),
    [
        ("cls_attention", lambda tokens, context: context.cls_attention.sum()),
        ("text", lambda tokens, context: tokens.x @ context.text),
        ("grid", lambda tokens, context: helped(context)),
        ("features", lambda tokens, context: context.features[2]),
        ("generator", lambda tokens, context: next(iter(context.generator))),
        ("last_attention", lambda tokens, context: torch.topk(context.last_attention, 2)),
    ],
)
def test_a_field_nobody_declared_is_told_by_its_name(model, inputs, field, reads):
    method = spoiled(forward=lambda self, *args: reads(*args), needs={"overview"})
    says = rf"Mine\.forward reads context\.{field}, .* want '{field}' in its needs"
    with foveate.compressed(model, method), pytest.raises(TypeError, match=says):
        model(**inputs)


def test_other_mistakes_stay_what_they_are(model, inputs):
    def broken(self, tokens, context):
        return None if context.text is None else tokens.none

    def missing(self, tokens, context):
        return self.gate(tokens.x)

    for forward, says in ((broken, "returned nothing"), (missing, "no attribute 'gate'")):
        with (
            foveate.compressed(model, spoiled(forward=forward)),
            pytest.raises((TypeError, AttributeError), match=says),
        ):
            model(**inputs)


def test_what_is_whole_works_and_half_precision_under_autocast(model, inputs):
    with torch.no_grad(), foveate.compressed(model, Mine(5)):
        model(**inputs)
        assert foveate.last_counts(model) == [5, 5]
        with foveate.compressed(model, Ragged()), torch.autocast("cpu", torch.bfloat16):
            assert torch.isfinite(model(**inputs).logits).all()


def test_without_arguments_it_can_still_be_printed():
    assert str(Silent()) == "Silent()" and repr(Silent()) == "Silent()"


def test_sites_in_a_row_are_said_as_one():
    """Three and more; another tower's, and the same layer twice, begin anew."""
    vision = [Site(Tower.vision, layer) for layer in (1, 2, 3, 4, 6)]
    inside = [language(layer) for layer in (0, 2, 3, 3, 8)]
    want = ["vision 1 to 4", "vision 6", "language 0", "language 2", "language 3", "language 3"]
    assert spans([*vision, *inside]) == [*want, "language 8"] and spans([]) == []
