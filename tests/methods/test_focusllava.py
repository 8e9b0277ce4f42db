"""FocusLLaVA: regions at their scales, and what the question looks at."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_tokens import check
from torch.nn import functional

from foveate import Context, RegionSampler, TextGuided, VisualTokens, focusllava, sized

D = 6
KEPT = {1: 16, 2: 4, 4: 1}  # of a region of 16


def generators(n, seed=0):
    return tuple(torch.Generator().manual_seed(seed + i) for i in range(n))


def box(rows, columns, view=0):
    cells = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.full((rows, columns), view), *cells], -1).reshape(-1, 3)


def seen(*images, overview=None, seed=0):
    """Tokens on grids, a row each, and their context. overview: the view that shows the whole image."""
    draw, lengths = torch.Generator().manual_seed(seed), [len(cells) for cells in images]
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    x = torch.zeros(*valid.shape, D)
    for row, n in zip(x, lengths, strict=True):
        row[:n] = torch.randn(n, D, generator=draw)
    grid = torch.nn.utils.rnn.pad_sequence(images, batch_first=True, padding_value=-1)
    whole = (grid[..., 0] == overview) & valid if overview is not None else torch.zeros_like(valid)
    context = Context(grid=grid, overview=whole, generator=generators(len(images)))
    return VisualTokens.of(x, valid), context


def sampler(force=None, seed=None, **arguments):
    """One whose router chooses the scale of this number, or anything, or that is as it begins."""
    torch.manual_seed(seed or 0)
    made = RegionSampler(width=D, hidden=8, **arguments).eval()
    with torch.no_grad():
        if force is not None:
            made.router[-1].bias[force] = 50
        if seed is not None:
            made.router[-1].weight.normal_(std=3)
    return made


def chosen(made, tokens, context):
    """By row, view, row and column of a region: the scale that its patches show in the output."""
    out, found = made(tokens, context), {}
    for i, cells in enumerate(context.grid.tolist()):
        for patch, (view, row, column) in enumerate(cells):
            if row >= 0 and not context.overview[i, patch]:
                size = int((out.owner[i] == out.owner[i, patch]).sum())
                region = (i, view, row // made.region, column // made.region)
                found.setdefault(region, set()).add(size)
    return found


@pytest.mark.parametrize("scales", [(1, 2, 4), (4, 1, 2)])
def test_it_begins_as_the_identity(scales):
    """Undecided, with the finest of its scales."""
    tokens, context = seen(box(8, 8), box(5, 7))
    out = sampler(scales=scales)(tokens, context)
    assert torch.equal(out.x, tokens.x) and torch.equal(out.owner, tokens.owner)
    assert out.penalty == 0


@pytest.mark.parametrize("number, scale", [(0, 1), (1, 2), (2, 4)])
def test_a_scale_is_max_pooling(number, scale):
    tokens, context = seen(box(12, 12), box(12, 12))
    out = sampler(force=number)(tokens, context)
    image = tokens.x.reshape(2, 12, 12, D).movedim(-1, 1)
    want = functional.max_pool2d(image, scale).flatten(2).mT
    assert torch.equal(out.x, want)
    alone = RegionSampler(width=D, scales=(scale,)).eval()
    assert torch.equal(alone(tokens, context).x, want)
    assert not list(alone.parameters()) and "generator" not in alone.needs


def test_regions_at_scales_of_their_own():
    tokens, context = seen(box(12, 8), box(8, 8))
    made = sampler(seed=5)
    out = made(tokens, context)
    check(out)
    scales = chosen(made, tokens, context)
    assert all(len(sizes) == 1 for sizes in scales.values())
    sizes = [sizes.pop() for sizes in scales.values()]
    assert set(sizes) == {1, 4, 16}, "a router this sharp uses all scales here"
    assert out.counts.sum() == sum(KEPT[int(size**0.5)] for size in sizes)
    for i in range(2):
        for token in range(int(out.counts[i])):
            members = tokens.x[i][out.owner[i] == token]
            assert torch.equal(out.x[i, token], members.amax(0))


def test_the_last_regions_of_a_row_and_a_column_are_smaller():
    tokens, context = seen(box(6, 5))
    out = sampler(force=2)(tokens, context)
    assert out.size.tolist() == [[16, 4, 8, 2]]
    out = sampler(force=1)(tokens, context)
    assert out.counts.tolist() == [9]
    assert torch.equal(out.x[0, 2], tokens.x[0, [4, 9]].amax(0))


def test_the_whole_image_stays_beside_its_tiles_and_is_what_the_router_knows():
    cells = torch.cat([box(4, 4), box(8, 8, view=1)])
    tokens, context = seen(cells, overview=0)
    out = sampler(force=2)(tokens, context)
    assert out.counts.tolist() == [16 + 4]
    assert torch.equal(out.x[0, :16], tokens.x[0, :16])
    made = sampler(seed=2)
    before = made.scores(tokens, context)[0, 16]
    far = tokens.x.clone()
    far[0, -1] += 9  # in another region
    assert made.scores(tokens.carry(far), context)[0, 16] == before
    whole = tokens.x.clone()
    whole[0, 0] += 9
    assert made.scores(tokens.carry(whole), context)[0, 16] != before
    alone, view = seen(box(8, 8))
    far = alone.x.clone()
    far[0, -1] += 9
    assert made.scores(alone.carry(far), view)[0, 0] != made.scores(alone, view)[0, 0]


def test_tokens_that_others_dropped_are_no_part_of_a_region():
    tokens, context = seen(box(8, 8))
    keep = torch.ones(1, 64, dtype=torch.bool)
    keep[0, [0, 1, 9]] = False
    keep[0, [4 * 8 + i * 8 + j for i in range(4) for j in range(4)]] = False  # one region whole
    fewer = tokens.where(keep)
    out = sampler(force=2)(fewer, context)
    check(out)
    assert out.size.tolist() == [[13, 16, 16]]


@pytest.mark.parametrize("gate", ["all", "chosen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_changes_no_value_and_gives_the_router_a_gradient(dtype, gate):
    tokens, context = seen(box(8, 8), box(7, 5))
    made = sampler(seed=3, explore=False, balance=0.0, gate=gate).to(dtype).train()
    tokens = tokens.carry(tokens.x.to(dtype))
    out = made(tokens, context)
    check(out)
    for row in range(2):
        for i in range(int(out.counts[row])):
            assert torch.equal(out.x[row, i], tokens.x[row][out.owner[row] == i].amax(0))
    out.x.float().pow(3).sum().backward()
    assert made.router[1].weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert torch.equal(made(tokens, context).x, out.x)


def gradient_of(gate, number):
    """Of a loss to the odds of one region at this scale: as found, the tokens of it, what they weigh."""
    tokens, context = seen(box(4, 4))
    made = sampler(explore=False, gate=gate).train()
    with torch.no_grad():
        made.router[-1].bias[number] = 1
    weight = torch.randn(16, D, generator=torch.Generator().manual_seed(9))
    x = tokens.x.clone().requires_grad_()
    out = made(tokens.carry(x), context)
    weight = weight[: out.x.shape[1]]
    (out.x[0] * weight).sum().backward()
    return made.router[-1], tokens.x[0], out, weight, x.grad


def to_bias(last, of_odds):
    """What a gradient to the odds is to the router's last bias."""
    odds = last.bias.detach().softmax(-1)
    return odds * (of_odds - (odds * of_odds).sum())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_gate_of_the_chosen_scale_scales_its_tokens(number):
    last, _, out, weight, _ = gradient_of("chosen", number)
    of_odds = torch.zeros(3)
    of_odds[number] = (out.x[0].detach() * weight).sum()
    torch.testing.assert_close(last.bias.grad, to_bias(last, of_odds))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_gate_of_all_scales_says_what_each_would_change(number):
    last, x, out, weight, of_x = gradient_of("all", number)
    image, of_odds = x.T.reshape(1, D, 4, 4), []
    # Of a token, over its patches.
    spread = weight[out.owner[0]] / out.size[0][out.owner[0]][:, None]
    for scale in (1, 2, 4):
        made = functional.max_pool2d(image, scale)
        made = made.repeat_interleave(scale, 2).repeat_interleave(scale, 3)[0].flatten(1).T
        of_odds.append((made * spread).sum())
    torch.testing.assert_close(last.bias.grad, to_bias(last, torch.stack(of_odds)))
    # The tokens' own gradient is that of the chosen maximum alone.
    same = x.clone()[None].requires_grad_()
    pooled = functional.max_pool2d(same[0].T.reshape(1, D, 4, 4), (1, 2, 4)[number])
    (pooled.flatten(2)[0].T * weight).sum().backward()
    torch.testing.assert_close(of_x, same.grad)


def test_the_balance_term_is_one_where_scales_are_used_alike():
    tokens, context = seen(box(8, 8))
    undecided = sampler(explore=False, balance=0.5).train()
    assert undecided(tokens, context).penalty.item() == pytest.approx(0.5)  # P is even
    certain = sampler(force=1, explore=False, balance=0.5).train()
    assert certain(tokens, context).penalty.item() == pytest.approx(1.5)
    assert certain.eval()(tokens, context).penalty == 0
    assert sampler(balance=0.0).train()(tokens, context).penalty == 0


def test_the_balance_term_is_of_all_regions_of_the_batch():
    tokens, context = seen(box(8, 8), box(6, 5))
    made = sampler(seed=5, explore=False, balance=0.5).train()
    odds = []
    for i, cells in enumerate([box(8, 8), box(6, 5)]):
        x = tokens.x[i, : len(cells)]
        for row in range(0, int(cells[:, 1].max()) + 1, 4):
            for column in range(0, int(cells[:, 2].max()) + 1, 4):
                inside = (cells[:, 1] // 4 == row // 4) & (cells[:, 2] // 4 == column // 4)
                own = torch.cat([x[inside].mean(0), x[inside].amax(0), x.mean(0)])
                odds.append(made.router(own).softmax(-1))
    odds = torch.stack(odds)
    used = functional.one_hot(odds.argmax(-1), 3).float().mean(0)
    want = 0.5 * 3 * (used * odds.mean(0)).sum()
    before = replace(tokens, penalty=torch.tensor(7.0))  # of another compressor
    penalty = made(before, context).penalty
    torch.testing.assert_close(penalty, 7 + want)
    last = made.router[-1].bias
    found = torch.autograd.grad(penalty, last)[0]
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, torch.autograd.grad(want, last)[0])


def test_exploring_tries_all_scales_in_training_alone():
    tokens, context = seen(*[box(16, 16)] * 8)
    made = sampler(explore=True).train()
    sizes = [sizes.pop() for sizes in chosen(made, tokens, context).values()]
    for size in (1, 4, 16):
        assert 0.2 < sizes.count(size) / len(sizes) < 0.47, "128 regions, a third each"
    assert made.eval()(tokens, context).counts.tolist() == [256] * 8


def test_noise_makes_a_draw_of_the_probabilities():
    tokens, context = seen(*[box(16, 16)] * 32)
    made = sampler().train()
    with torch.no_grad():
        made.router[-1].bias.copy_(torch.tensor([0.1, 0.3, 0.6]).log())
    sizes = [sizes.pop() for sizes in chosen(made, tokens, context).values()]
    for size, share in {1: 0.1, 4: 0.3, 16: 0.6}.items():
        assert sizes.count(size) / len(sizes) == pytest.approx(share, abs=0.06), "512 regions"


def test_noise_does_not_depend_on_padding_or_on_neighbours():
    together, context = seen(box(8, 8), box(12, 12))
    made = sampler(explore=True).train()
    alone = together.rows(torch.tensor([0]))
    alone = VisualTokens(alone.x[:, :64], alone.owner[:, :64], alone.valid[:, :64])
    here = Context(
        grid=context.grid[:1, :64], overview=context.overview[:1, :64], generator=generators(1)
    )
    out = made(alone, here)
    both = made(together, replace(context, generator=generators(2)))
    n = int(out.counts)
    assert int(both.counts[0]) == n < 64
    assert torch.equal(both.x[0, :n], out.x[0])


def test_a_price_on_tokens_moves_the_choice_after_training():
    tokens, context = seen(box(12, 12), seed=4)
    free, counts, expected = sampler(seed=5), [], []
    for price in (0.0, 1.0, 3.0, 1e3):
        made = sampler(seed=5, price=price)
        made.load_state_dict(free.state_dict())
        counts.append(int(made(tokens, context).counts))
        expected.append(float(made.scores(tokens, context).sum()))
    assert expected[0] > expected[1] > expected[2] > expected[3] == pytest.approx(9)
    assert counts[0] > counts[1] >= counts[2] > counts[3] == 9
    made.train()
    still = sampler(seed=5, price=0.0).train()
    still.load_state_dict(made.state_dict())
    assert torch.equal(made(tokens, context).x, still(*seen(box(12, 12), seed=4)).x)


def test_scores_are_the_tokens_to_be_expected():
    tokens, context = seen(box(8, 8))
    torch.testing.assert_close(sampler().scores(tokens, context), torch.full((1, 64), 0.4375))
    forced = sampler(force=2).scores(tokens, context)
    torch.testing.assert_close(forced, torch.full((1, 64), 1 / 16))


def asked(B, N, seed=0):
    x = torch.randn(B, N, D, generator=torch.Generator().manual_seed(seed))
    attention = torch.rand(B, N, generator=torch.Generator().manual_seed(seed + 1))
    return VisualTokens.of(x), attention


def test_the_text_guided_sampler_keeps_what_the_words_look_at():
    tokens, attention = asked(2, 10)
    out = TextGuided(keep=0.3)(tokens, Context(prompt_attention=attention))
    for i in range(2):
        best = attention[i].topk(3).indices.sort().values
        assert torch.equal(out.x[i], tokens.x[i, best])


def test_in_training_the_share_is_drawn_for_each_image():
    tokens, attention = asked(200, 10)
    made = TextGuided(keep=0.5, sampled=(0.3, 1.0)).train()
    counts = made(tokens, Context(prompt_attention=attention, generator=generators(200))).counts
    assert int(counts.min()) == 3 and int(counts.max()) == 10
    assert counts.float().mean() == pytest.approx(6.5, abs=0.5)
    again = made(tokens, Context(prompt_attention=attention, generator=generators(200))).counts
    assert torch.equal(counts, again)
    made.eval()
    counts = made(tokens, Context(prompt_attention=attention, generator=generators(200))).counts
    assert counts.unique().tolist() == [5]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scales": (1, 3)}, r"scales=\(1, 3\): want some of \[1, 2, 4\]"),
        ({"scales": ()}, "scales"),
        ({"scales": (2, 2)}, "scales"),
        ({"scales": 2}, "scales"),
        ({"region": 0}, "region=0"),
        ({"balance": -1}, "balance=-1"),
        ({"price": -1}, "price=-1"),
        ({"balance": float("nan")}, "balance=nan"),
        ({"gate": "both"}, "gate='both': want one of all, chosen"),
        ({"explore": "yes"}, "explore='yes': want one of True, False"),
        ({"sampled": (0.5, 0.3)}, r"sampled=\(0.5, 0.3\)"),
        ({"sampled": (0, 1)}, "sampled"),
        ({"sampled": 0.5}, "sampled"),
        ({"layer": 0}, "layer=0"),
        ({"keep": 0}, "keep=0"),
        ({"only": "both"}, "only='both': want one of vision, text, None"),
        ({"only": "vision", "keep": 0.5}, "keep=0.5: with only='vision'"),
        ({"only": "vision", "layer": 3}, "layer=3 means nothing with only='vision'"),
        ({"only": "vision", "sampled": (0.3, 1.0)}, "sampled"),
        ({"only": "vision", "layer": 16}, "layer=16 means nothing with only='vision'"),
        ({"scales": [2], "price": 0.5}, "price=0.5 means nothing with one scale"),
        ({"scales": [2], "gate": "chosen"}, "gate='chosen' means nothing with one scale"),
        ({"seed": -1}, "seed=-1"),
        ({"only": "text", "region": 8}, "region=8 means nothing with only='text'"),
        ({"only": "text", "explore": False}, "explore=False means nothing"),
    ],
)
def test_arguments_that_mean_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        focusllava(width=D, **arguments)


def test_numbers_may_come_in_any_sequence():
    for scales in ([2, 1], (np.int64(1), 2), range(1, 3), np.array([1, 2])):
        given = focusllava(width=D, scales=scales, sampled=np.array([0.25, 0.5]))
        assert given.parts()[0].arguments()["scales"] == [1, 2]
        assert given.parts()[1].arguments()["sampled"] == [0.25, 0.5]
    for scales in (np.array(2), np.array([[1, 2]]), np.array([1.0, 2.0]), "12", [1, [2]]):
        with pytest.raises(ValueError, match=r"want some of \[1, 2, 4\]"):
            focusllava(width=D, scales=scales)


def test_the_chain_cuts_half_way():
    chain = focusllava(width=D)
    assert [str(part.site) for part in chain.parts()] == ["language 0", "language 16"]
    assert not chain.selects
    assert str(focusllava(width=D, layers=6).parts()[1].site) == "language 3"
    assert str(focusllava(width=D, layer=2, layers=6).parts()[1].site) == "language 2"
    assert focusllava(width=D, keep=7).parts()[1].keep == 7
    vision = focusllava(only="vision", width=D, region=8)
    assert isinstance(vision, RegionSampler) and vision.region == 8
    assert isinstance(focusllava(only="text", scales=[1, 2, 4]), TextGuided)


SIZES = {"width": D, "region": 8, "scales": [1, 8], "hidden": 5}
SIZES |= {"explore": False, "balance": 0.3, "gate": "chosen", "price": 0.7, "seed": 3}
OTHERS = {
    RegionSampler: SIZES,
    TextGuided: {"keep": 7, "layer": 5, "sampled": [0.2, 0.9], "seed": 4},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_arguments_make_the_same_again(kind):
    given = OTHERS[kind]
    defaults = inspect.signature(kind).parameters
    assert given.keys() == defaults.keys()
    assert all(value != defaults[name].default for name, value in given.items())
    assert kind(**given).arguments() == given


def test_the_factory_hands_every_argument_on():
    both = {name: value for kind in OTHERS.values() for name, value in kind.items()}
    vision, text = focusllava(**{**both, "seed": 3}).parts()  # which draw apart, by 3 and 4
    assert vision.arguments() == OTHERS[RegionSampler] and text.arguments() == OTHERS[TextGuided]


def test_regions_begin_at_the_corner_of_the_map():
    """What stands outside of it stays as it is."""
    whole, cut = box(8, 8), box(8, 8) + torch.tensor([0, 6, 3])
    outside = torch.tensor([[0, -1, -1]])
    for before in (outside[:0], outside):
        tokens, context = seen(torch.cat([before, cut]))
        out = sampler(force=2)(tokens, context)
        assert out.size[0].tolist() == [1] * len(before) + [16] * 4
        assert torch.equal(out.x[0, : len(before)], tokens.x[0, : len(before)])
    views = torch.cat([whole, cut + torch.tensor([1, 0, 0])])
    assert sampler(force=2)(*seen(views)).size.tolist() == [[16] * 8]


def test_large_values_in_half_precision():
    tokens, context = seen(box(54, 54))
    tokens = tokens.carry((tokens.x.abs() + 30).half())
    made = sampler(seed=5).half()
    assert made.scores(tokens, context).isfinite().all()
    assert int(made(tokens, context).counts) < 54 * 54


def test_a_frozen_router_takes_no_penalty():
    tokens, context = seen(box(8, 8))
    made = sampler(seed=5, explore=False).train().requires_grad_(False)
    assert made(tokens, context).penalty == 0


def test_tokens_of_another_width():
    tokens, context = seen(box(8, 8))
    with pytest.raises(ValueError, match="tokens of width 6 for a router made for width=7"):
        RegionSampler(width=7)(tokens, context)


def test_the_router_is_as_wide_as_the_model():
    class Config:
        def get_text_config(self):
            return self

        hidden_size, num_hidden_layers = 12, 10

    vision, text = sized(focusllava, Config()).parts()
    assert vision.router[1].in_features == 36 and text.site.layer == 5


def test_other_arguments_on_the_same_weights():
    trained = focusllava(width=D, hidden=8, layers=6)
    with torch.no_grad():
        trained.parts()[0].router[-1].weight.normal_()
    other = trained.but(keep=0.25, price=2.0)
    assert [part.arguments() for part in other.parts()] == [
        trained.parts()[0].arguments() | {"price": 2.0},
        trained.parts()[1].arguments() | {"keep": 0.25},
    ]
    for name, weight in trained.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight)
        assert other.state_dict()[name].data_ptr() != weight.data_ptr()
    assert not trained.eval().half().but(price=1).training
    assert trained.but(price=1).parts()[0].router[1].weight.dtype == torch.float16
    with pytest.raises(TypeError, match="stride=2 for a chain of RegionSampler, TextGuided: none"):
        trained.but(stride=2)
    with pytest.raises(TypeError, match=r"seed=3 for a chain .*: 2 of them have it"):
        trained.but(seed=3)
    with pytest.raises(TypeError, match="RegionSampler has no argument 'keep': there are width"):
        trained.parts()[0].but(keep=3)
    with pytest.raises(ValueError, match="hidden=9: these weights are of another shape"):
        trained.but(hidden=9)
