"""LLaVA-Meteor against the same thing worked out by hand, one sequence and one step at a time."""

import pytest
import torch
from probes import views
from torch.nn import functional

import foveate
from foveate import (
    METHODS,
    Chain,
    Context,
    FlashGlobalFusion,
    VisualNativeSelection,
    VisualTokens,
    compress,
    meteor,
    sized,
)
from foveate.core.ops import neighbours
from foveate.embedded import load
from foveate.evaluate.prompts import encode
from foveate.patchqa import PatchQA
from foveate.statespace import spaces
from foveate.statespace.routes import SCANS
from foveate.statespace.scan import sequential

WIDTH, FEATURE = 24, 16


def fusion(feature=FEATURE, **arguments):
    """With weights that are all random: what begins at 0 or 1 hides mistakes."""
    torch.manual_seed(0)
    method = FlashGlobalFusion(WIDTH, feature, **arguments).double()
    with torch.no_grad():
        for name, weight in method.named_parameters():
            if name.endswith(("bias", "skip", "norm.weight", "level.weight")):
                weight.add_(0.5 * torch.randn_like(weight))
    return method


def seen(rows=3, columns=4, words=5, seed=1, feature=FEATURE):
    """One image, a question and the grid."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(1, rows * columns, feature, generator=draw, dtype=torch.float64)
    text = torch.randn(1, words, WIDTH, generator=draw, dtype=torch.float64)
    context = {"text": text, "text_mask": torch.ones(1, words, dtype=torch.bool)}
    return VisualTokens.of(x), Context(**context, grid=views((rows, columns)))


def averaged(n, rows, columns):
    """The mean of 3 × 3 neighbours, the edge repeated. n (N, C)."""
    image = n.T.reshape(1, -1, rows, columns)
    mean = functional.avg_pool2d(functional.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return mean.reshape(n.shape[1], -1).T


def walked(n, i, rows, columns):
    """The 3 × 3 neighbours of token i, the edge repeated, itself last."""
    row, column = divmod(i, columns)
    around = [(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    around = [place for place in around if place != (row, column)] + [(row, column)]
    clamped = [(min(max(r, 0), rows - 1), min(max(c, 0), columns - 1)) for r, c in around]
    return [n[r * columns + c] for r, c in clamped]


def sequence(n, T, order, scan, rows, columns):
    """What one direction reads, step by step, and the step each token is read at. n (T + N, C)."""
    words, n = n[:T], n[T:]
    local = averaged(n, rows, columns)
    steps, place = list(words), {}
    for i in order:
        if scan == "add":
            steps.append(n[i] + local[i])
        elif scan == "pair":
            steps += [local[i], n[i]]
        else:
            steps += walked(n, i, rows, columns)
        place[i] = len(steps) - 1
    return torch.stack(steps), place


def convolved(conv, x, g):
    """A causal convolution of one direction's sequence, and SiLU. x (L, C)."""
    kernel = conv.weight[:, g].T[:, None]  # (C, 1, 4)
    padded = functional.pad(x.T[None], (3, 0))
    return functional.silu(functional.conv1d(padded, kernel, conv.bias[g], groups=len(kernel)))[0].T


def stepped(space, laid, g):
    """One direction's state space over its sequence, by the plain loop. laid (L, C) → (L, inner)."""
    inner = space.conv.bias.shape[1]
    x, more = convolved(space.conv, laid[:, :inner], g), laid[:, inner:]
    if hasattr(space, "select"):
        rank, states, _ = space.sizes
        step, B, C = (x @ space.select[g]).split([rank, states, states], dim=1)
        delta = functional.softplus(step @ space.widen[g] + space.step[g])
    else:
        states, heads = space.sizes
        B, C = convolved(space.conv_more, more[:, : 2 * states], g).split(states, dim=1)
        delta = functional.softplus(more[:, 2 * states :] + space.step[g])
        x = x.unflatten(1, (heads, -1))
    own = slice(g * delta.shape[1], (g + 1) * delta.shape[1])
    given = (x[None], delta[None], -space.log_decay[own].exp(), B[None, :, None], C[None, :, None])
    return sequential(*given, space.skip[own])[0].flatten(1)


def by_hand(method, x, text, rows, columns):
    """The fusion of one image: every block, every direction, every step."""
    own, N = method.arguments(), len(x)
    z = method.enter(x)
    T = 0
    if own["text"]:
        z, T = torch.cat([method.words(text), z]), len(text)
    for block in method.blocks:
        n = block.norm(z)
        laid, total = block.enter(n), 0
        for g, order in enumerate([range(N), range(N - 1, -1, -1)][: len(block.space.conv.bias)]):
            steps, place = sequence(laid, T, order, own["scan"], rows, columns)
            y = stepped(block.space, steps, g)
            total = total + torch.stack([*y[:T], *(y[place[i]] for i in range(N))])
        gated = total * functional.silu(block.gate(n))
        level = gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        z = z + block.leave(block.level.weight * level)
    return method.leave(z[T:])


@pytest.mark.parametrize("operator", ["ssd", "mamba1"])
@pytest.mark.parametrize("directions", ["forward", "both"])
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("text", [True, False])
def test_the_fusion_is_what_it_is_by_hand(scan, directions, operator, text):
    """With several heads a direction."""
    how = {"scan": scan, "directions": directions, "operator": operator, "text": text}
    method, (tokens, context) = fusion(feature=128, states=4, **how), seen(feature=128)
    with torch.no_grad():
        got = method(tokens, context).x[0]
        want = by_hand(method, tokens.x[0], context.text[0], 3, 4)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("operator", ["ssd", "mamba1"])
@pytest.mark.parametrize("scan", SCANS)
def test_ragged_images_and_questions_are_each_alone(scan, operator):
    """Unequal grids, unequal questions, words anywhere in the mask, and a prompt that says nothing."""
    method = fusion(scan=scan, operator=operator)
    grids = [views((3, 4)), views((2, 3)), views((2, 2), (1, 3))]
    P = max(g.shape[1] for g in grids)
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(3, P, FEATURE, generator=draw, dtype=torch.float64)
    text = torch.randn(3, 6, WIDTH, generator=draw, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0] * 6, [0, 1, 0, 1, 1, 1]]).bool()
    grid = torch.cat([functional.pad(g, (0, 0, 0, P - g.shape[1]), value=-1) for g in grids])
    tokens = VisualTokens.of(x, grid[..., 0] >= 0)
    with torch.no_grad():
        together = method(tokens, Context(text=text, text_mask=mask, grid=grid)).x
        for b, own in enumerate(grids):
            n, said = own.shape[1], text[b : b + 1, mask[b]]
            context = Context(text=said, text_mask=torch.ones(1, said.shape[1]).bool(), grid=own)
            alone = method(VisualTokens.of(x[b : b + 1, :n]), context).x
            torch.testing.assert_close(together[b, :n], alone[0], atol=1e-10, rtol=1e-8)
            assert not together[b, n:].any()


def test_words_and_neighbours_that_were_dropped():
    """A method before it may drop tokens: the nearest neighbour that is left stands in."""
    cell, valid = views((3, 3)), torch.ones(1, 9, dtype=torch.bool)
    around = neighbours(cell, valid)[0]
    assert around[4].tolist() == list(range(9))
    assert around[0].tolist() == [0, 0, 1, 0, 0, 1, 3, 3, 4]  # a corner, replicated
    assert around[5].tolist() == [1, 2, 2, 4, 5, 5, 7, 8, 8]
    left = cell[:, [0, 2, 4, 8]]
    around = neighbours(left, valid[:, :4])[0]
    assert set(around[0].tolist()) == {0, 2} and set(around[2].tolist()) == {0, 1, 2, 3}
    outside = torch.tensor([[[0, 0, 0], [0, -1, -1], [0, -1, -1], [0, 0, 1]]])
    around = neighbours(outside, valid[:, :4])[0]
    assert around[1].tolist() == [1] * 9 and around[2].tolist() == [2] * 9
    assert set(around[0].tolist()) == {0, 3}


def test_two_views_do_not_meet():
    cell = views((2, 2), (2, 2))
    around = neighbours(cell, torch.ones(1, 8, dtype=torch.bool))[0]
    assert around[:4].max() == 3 and around[4:].min() == 4


@pytest.mark.parametrize("operator", ["ssd", "mamba1"])
def test_half_precision_stays_near(operator):
    method, (tokens, context) = fusion(operator=operator), seen(8, 8)
    with torch.no_grad():
        want = method(tokens, context).x
        low = Context(text=context.text.bfloat16(), text_mask=context.text_mask, grid=context.grid)
        got = method.bfloat16()(tokens.carry(tokens.x.bfloat16()), low).x
    assert (got.double() - want).norm() / want.norm() < 2e-2


@pytest.mark.parametrize("operator", ["ssd", "mamba1"])
def test_under_autocast_the_scan_reads_bfloat16_and_steps_in_float32(operator, monkeypatch):
    method, (tokens, context) = fusion(operator=operator).float(), seen()
    low = Context(text=context.text.float(), text_mask=context.text_mask, grid=context.grid)
    read = []
    own = spaces.scan
    monkeypatch.setattr(spaces, "scan", lambda *a, **k: read.append(a) or own(*a, **k))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        method(tokens.carry(tokens.x.float()), low)
    for x, delta, decay, B, C, _ in read:
        assert [t.dtype for t in (x, B, C)] == [torch.bfloat16] * 3
        assert delta.dtype == decay.dtype == torch.float32
        assert (delta * 1000 % 1 != 0).any() and not torch.equal(delta, delta.bfloat16().float())
    half = method.bfloat16()
    with torch.no_grad():
        half(tokens.carry(tokens.x.bfloat16()), low)
    _, delta, decay, *_ = read[-1]
    assert not torch.equal(decay, decay.bfloat16().float()), "a decay's exponential was rounded"
    assert not torch.equal(delta, delta.bfloat16().float()), "steps were rounded"


def test_it_has_the_size_that_its_notes_say():
    with torch.device("meta"):
        method = FlashGlobalFusion()
    count = sum(p.numel() for p in method.parameters())
    assert 22.0e6 < count < 23.0e6


@pytest.fixture(scope="module")
def asked():
    model, processor = load()
    examples = PatchQA("test").examples(6)
    return model, encode(processor, [(e.images, e.question) for e in examples])


def test_a_warm_start_is_the_projector(asked):
    model, inputs = asked
    inputs, _ = inputs
    with torch.no_grad():
        want = model(**inputs).logits
        try:
            compress(model, sized(meteor, model, keep=1.0, hidden=160))
            assert (model(**inputs).logits - want).abs().max() > 1
            foveate.warm_start(model)
            torch.testing.assert_close(model(**inputs).logits, want, atol=1e-4, rtol=0)
            compress(model, sized(meteor, model))
            with pytest.raises(ValueError, match="hidden=128"):
                foveate.warm_start(model)
            compress(model, sized(meteor, model, hidden=128, state_width=64))
            with pytest.raises(ValueError, match="256 channels do not fit into 64"):
                foveate.warm_start(model)
        finally:
            foveate.restore(model)


def experts_of(*, N=16, words=4, seed=3):
    """Tokens, and a context of which the experts read."""
    draw = torch.Generator().manual_seed(seed)
    attention = torch.rand(2, N, generator=draw)
    tokens = VisualTokens.of(torch.randn(2, N, WIDTH, generator=draw))
    text = torch.randn(2, words, WIDTH, generator=draw)
    mask = torch.tensor([[True] * words, [False] * words])
    return tokens, Context(cls_attention=attention, text=text, text_mask=mask)


def test_a_trace_shows_what_selection_goes_by(asked):
    model, (inputs, mask) = asked
    method = VisualNativeSelection(36, balance=0.2)
    told = foveate.instruction(mask=mask)
    with foveate.compressed(model, method), foveate.trace(model) as seen_, told, torch.no_grad():
        model(**inputs)
    (step,) = seen_.steps
    kept = step.owner >= 0
    lowest = step.scores.masked_fill(~kept, torch.inf).amin(1)
    highest = step.scores.masked_fill(kept, -torch.inf).amax(1)
    assert (lowest >= highest).all()


def test_experts_are_asked_once_where_nobody_traces(asked, monkeypatch):
    model, (inputs, mask) = asked
    own, calls = VisualNativeSelection.experts, []
    monkeypatch.setattr(VisualNativeSelection, "experts", lambda *a: calls.append(0) or own(*a))
    told = foveate.instruction(mask=mask)
    with foveate.compressed(model, VisualNativeSelection(36)), told, torch.no_grad():
        model(**inputs)
    assert len(calls) == 1


def by_score(score, n):
    return torch.zeros_like(score, dtype=torch.bool).scatter(0, score.topk(n).indices, True)


def test_the_experts_are_what_they_are_by_hand():
    tokens, context = experts_of()
    visual, native = VisualNativeSelection(4).experts(tokens, context)
    seen_ = context.cls_attention / context.cls_attention.sum(1, keepdim=True)
    torch.testing.assert_close(visual, seen_)
    word = context.text[0].mean(0)
    alike = torch.stack([torch.cosine_similarity(v, word, dim=0) for v in tokens.x[0]])
    torch.testing.assert_close(native[0], (alike / 0.1).exp() / (alike / 0.1).exp().sum())
    torch.testing.assert_close(native[1], visual[1])  # nobody asked: the visual expert decides


def test_the_native_expert_by_words():
    """Standardised over the image, no word is louder than another; the best speaks for a token."""
    tokens, context = experts_of()
    ragged = VisualTokens.of(tokens.x, torch.arange(16) < torch.tensor([[11], [16]]))
    method = VisualNativeSelection(4, similarity="words", temperature=0.7)
    _, native = method.experts(ragged, context)
    best = []
    for word in context.text[0]:
        alike = torch.stack([torch.cosine_similarity(v, word, dim=0) for v in tokens.x[0, :11]])
        best.append((alike - alike.mean()) / alike.std(correction=0))
    want = (torch.stack(best).amax(0) / 0.7).softmax(0)
    torch.testing.assert_close(native[0, :11], want)
    assert not native[0, 11:].any()
    nobody = Context(
        cls_attention=context.cls_attention,
        text=context.text[:, :0],
        text_mask=context.text_mask[:, :0],
    )
    visual, native = method.experts(ragged, nobody)
    assert torch.equal(visual, native)


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("aggregate", ["sum", "product", "max", "union"])
def test_aggregates_are_what_they_are_by_hand(aggregate, balance):
    tokens, context = experts_of()
    method = VisualNativeSelection(5, balance, aggregate)
    visual, native = VisualNativeSelection(5).experts(tokens, context)
    kept = method.eval()(tokens, context).owner >= 0
    assert torch.equal(kept, method.train()(tokens, context).owner >= 0)
    for v, n, got in zip(visual, native, kept, strict=True):
        if aggregate == "union":
            quota = int(balance * 5 + 0.5)
            want = by_score(v, quota) if quota else torch.zeros_like(got)
            if quota < 5:
                want = want | by_score(n.masked_fill(want, -1), 5 - quota)
        else:
            score = {
                "sum": balance * v + (1 - balance) * n,
                "product": v**balance * n ** (1 - balance),
                "max": torch.maximum(balance * v, (1 - balance) * n),
            }[aggregate]
            want = by_score(score, 5)
        assert torch.equal(got, want)
    if aggregate == "union":
        assert method.scores(tokens, context) is None  # no one number decides


def test_selected_tokens_are_unchanged_and_learn():
    tokens, context = experts_of()
    x = tokens.x.clone().requires_grad_()
    out = VisualNativeSelection(5)(tokens.carry(x), context)
    kept = out.owner >= 0
    assert kept.sum(1).tolist() == [5, 5]
    assert torch.equal(out.x[0], tokens.x[0][kept[0]])
    out.x.sum().backward()
    assert torch.equal(x.grad.abs().sum(-1) > 0, kept)


def test_only_what_is_read_is_asked_for():
    assert VisualNativeSelection(4, balance=1.0).needs == {"cls_attention"}
    assert VisualNativeSelection(4).needs == {"cls_attention", "text", "text_mask"}
    assert "generator" in VisualNativeSelection(4, sampled=[2, 4]).needs
    assert FlashGlobalFusion(WIDTH, FEATURE, text=False).needs == {"grid"}
    assert FlashGlobalFusion(WIDTH, FEATURE, text=False).words is None


def test_budgets_are_drawn_in_training_alone():
    tokens, context = experts_of()
    method = VisualNativeSelection(9, sampled=[2, 5, 9])
    found = set()
    for seed in range(20):
        draws = tuple(torch.Generator().manual_seed(2 * seed + i) for i in range(2))
        drawn = Context(**{**vars(context), "generator": draws})
        again = tuple(torch.Generator().manual_seed(2 * seed + i) for i in range(2))
        counts = method.train()(tokens, drawn).counts.tolist()
        drawn_again = Context(**{**vars(context), "generator": again})
        assert counts == method(tokens, drawn_again).counts.tolist()
        found |= set(counts)
        assert method.eval()(tokens, drawn).counts.tolist() == [9, 9]
    assert found == {2, 5, 9}


def test_the_factory_makes_both_or_one():
    whole = METHODS["meteor"](keep=0.25)
    assert isinstance(whole, Chain)
    assert [type(part) for part in whole.parts()] == [FlashGlobalFusion, VisualNativeSelection]
    assert isinstance(meteor(only="fusion", width=8, feature_width=8), FlashGlobalFusion)
    selection = meteor(7, only="selection")
    assert isinstance(selection, VisualNativeSelection) and selection.keep == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scan": "pairs"}, "scan='pairs': want one of add, pair, window"),
        ({"directions": "back"}, "directions='back': want one of forward, both"),
        ({"operator": "mamba"}, "operator='mamba': want one of ssd, mamba1"),
        ({"aggregate": "mean"}, "aggregate='mean': want one of sum, product, max, union"),
        ({"similarity": "max"}, "similarity='max': want one of mean, words"),
        ({"only": "native"}, "only='native': want one of fusion, selection"),
        ({"only": "fusion", "keep": 64}, "keep=64: only='fusion' keeps all tokens"),
        ({"balance": 1.5}, "balance=1.5"),
        ({"temperature": 0}, "temperature=0"),
        ({"sampled": []}, "sampled"),
        ({"sampled": [0, 4]}, "keep=0"),
        ({"sampled": 36}, "sampled=36: want a list of budgets"),
        ({"balance": "0.5"}, "balance='0.5'"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"text": "no"}, "text='no': want True or False"),
        ({"scan": ["pair"]}, "scan=['pair']: want one of"),
        ({"only": "selection", "scan": "add"}, "scan='add' means nothing with only='selection'"),
        ({"only": "fusion", "balance": 0.2}, "balance=0.2 means nothing with only='fusion'"),
        ({"depth": 0}, "depth=0: want an int >= 1"),
        ({"hidden": 0}, "hidden=0"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments, said):
    with pytest.raises(ValueError) as error:
        meteor(**{"width": 8, "feature_width": 8, **arguments})
    assert said in str(error.value)


def test_tokens_of_another_width_are_refused():
    tokens, context = seen()
    with pytest.raises(ValueError, match="width 15 for a connector that reads 16"):
        fusion()(tokens.carry(tokens.x[..., 1:]), context)
