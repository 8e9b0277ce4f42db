"""ToMe, arXiv:2210.09461."""

import pytest
import torch
from calling import close
from families import FAMILIES, MIXED, Llava
from methods_by_hand import ragged
from probes import Looks

import foveate
from foveate import Chain, Context, Site, ToMe, Tower, VisualTokens, sized, tome
from foveate.hosts import traits

KEEP = 5


def merged(x, keys, groups, r):
    """One merge by hand: vectors and groups of patches, in the order of their first patch."""
    unit = torch.nn.functional.normalize(keys, dim=-1)
    pairs = []
    for a in range(1, len(x), 2):
        likeness, b = max((float(unit[a] @ unit[b]), -b) for b in range(0, len(x), 2))
        pairs.append((-likeness, a, -b))
    into = {a: b for _, a, b in sorted(pairs)[:r]}
    found = []
    for i in (i for i in range(len(x)) if i not in into):
        mine = [i, *(a for a, b in into.items() if b == i)]
        size = torch.tensor([float(len(groups[k])) for k in mine])
        mean = (x[mine] * size[:, None]).sum(0) / size.sum()
        found.append((sorted(p for k in mine for p in groups[k]), mean))
    found.sort(key=lambda pair: pair[0])
    return torch.stack([mean for _, mean in found]), [group for group, _ in found]


def grouped(owner):
    """The patches of each token."""
    return [(owner == n).nonzero()[:, 0].tolist() for n in range(int(owner.max()) + 1)]


@pytest.mark.parametrize("sizes", [False, True])
def test_one_merge_is_that_of_the_paper(sizes):
    """The most alike of every second token and the others, their mean by size; of ragged rows too."""
    tokens, _ = ragged([16, 11, 2, 1])
    if sizes:  # some carry three patches already
        tokens = tokens.merge(torch.arange(16).expand(4, -1) // 3 * 2, 16)
    counts = tokens.counts.tolist()
    keys = torch.randn(*tokens.valid.shape, 3, generator=torch.Generator().manual_seed(1))
    keep = [n - n // 3 for n in counts]
    for b, n in enumerate(counts):
        out = ToMe(keep[b])(tokens.rows(torch.tensor([b])), Context(keys=keys[b : b + 1]))
        groups = grouped(tokens.owner[b])
        x, groups = merged(tokens.x[b, :n], keys[b, :n], groups, n - keep[b])
        assert grouped(out.owner[0]) == groups and out.counts.tolist() == [keep[b]]
        torch.testing.assert_close(out.x[0, : keep[b]], x)


def counts(keep, patches, merges):
    tokens, found = VisualTokens.of(torch.randn(1, patches, 2)), []
    for part in tome(keep, merges + 1).parts():
        keys = torch.randn(*tokens.valid.shape, 2)
        tokens = part(tokens, Context(keys=keys))
        found.append(int(tokens.counts))
    return found


def test_what_has_to_go_goes_in_equal_shares():
    """LLaVA-1.5: 576 patches, 22 merges; 24 blocks of r = 16 would leave 192, as here 17.45 a merge do."""
    found = counts(192, 576, 22)
    assert found[-1] == 192
    assert {a - b for a, b in zip([576, *found], found, strict=False)} == {17, 18}


@pytest.mark.parametrize("keep", [1, 2, 9, 64, 575, 576, 600, 0.001, 0.5, 1.0])
def test_the_budget_is_kept_exactly(keep):
    """More goes early where the last merges, which at most halve, could not do their share."""
    want = min(keep, 576) if isinstance(keep, int) else int(576 * keep + 0.5)
    assert counts(keep, 576, 22)[-1] == want


def test_a_budget_that_the_merges_cannot_reach():
    assert counts(0.25, 16, 2) == [8, 4] and counts(2, 17, 4)[-1] == 2
    with pytest.raises(ValueError, match=r"keep=3: 2 merges.* leave 4 or more of 16 tokens, not 3"):
        counts(3, 16, 2)
    with pytest.raises(ValueError, match=r"keep=0.2: 2 merges.* keep 0.25 or more"):
        tome(0.2, feature_layer=3)
    with pytest.raises(ValueError, match="feature_layer=1"):
        tome(feature_layer=1)
    with pytest.raises(ValueError, match="layer=0"):
        ToMe(layer=0)


class Joined(Llava):
    """Reads two hidden states, of which the first is from before the last merge."""

    def config(self):
        config = super().config()
        config.vision_feature_layer = [-3, -2]
        return config


def in_the_tower(model, pixels, keep):
    """(N, D) features of one view, and the patches of each token, block by block in plain steps."""
    tower, blocks = traits.tower_of(model.model), traits.tower_blocks(model.model)
    C, last = int(traits.has_class_token(model.model)), traits.selected_layer(model.model)
    h = tower(pixels, output_hidden_states=True).hidden_states[0]
    groups, keys, states = [[p] for p in range(h.shape[1] - C)], None, []
    for i, block in enumerate(blocks[:last]):
        if i:
            r = -(-(len(groups) - keep) // (last - i))
            x, groups = merged(h[0, C:], keys[C:], groups, r)
            h = torch.cat([h[:, :C], x[None]], dim=1)
        attention = block.self_attn
        heads = attention.k_proj(block.layer_norm1(h))[0].unflatten(-1, (-1, attention.head_dim))
        keys = heads.mean(1)
        size = torch.tensor([*[1.0] * C, *(len(group) for group in groups)])
        h = block(h, size.log()[None, None, None].expand(1, 1, h.shape[1], -1))
        states.append((h[0, C:], groups))
    if last == len(blocks):
        states[-1] = tower.post_layernorm(h[0, C:]), groups
    joined = isinstance(traits.selection(model.model)["vision_feature_layer"], list)
    read = states[-2:] if joined else states[-1:]
    return torch.cat([averaged(*state, groups) for state in read], dim=-1), groups


def averaged(x, groups, into):
    """(N, D) the mean over the patches of each later token, of what carried them before."""
    carrier = {p: i for i, group in enumerate(groups) for p in group}
    return torch.stack([x[[carrier[p] for p in group]].mean(0) for group in into])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [FAMILIES["llava"], FAMILIES["paligemma"], Joined()])
@torch.no_grad()
def test_a_tower_with_merges_is_its_blocks_one_by_one(family, attention):
    """Keys, the class token's part, log-sizes on the logits, and what the projector reads."""
    model, bare = family.model(attention), family.model()
    inputs, looks = family.inputs(MIXED), Looks(Site(Tower.features), ())
    foveate.compress(model, Chain(sized(tome, model, keep=KEEP), looks))
    with foveate.trace(model) as seen:
        model(**inputs)
    ((tokens, _),) = looks.seen
    assert len(tokens.x) == len(inputs["pixel_values"]) and tokens.counts.eq(KEEP).all()
    for i, pixels in enumerate(inputs["pixel_values"]):
        x, groups = in_the_tower(bare, pixels[None], KEEP)
        assert grouped(tokens.owner[i]) == groups
        assert torch.equal(seen.steps[-1].owner[i], tokens.owner[i])
        close(tokens.x[i], x)
