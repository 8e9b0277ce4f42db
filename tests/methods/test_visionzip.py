"""VisionZip, arXiv:2412.04467."""

import pytest
import torch
from families import FAMILIES
from probes import views

import foveate
from foveate import Context, VisionZip, VisualTokens


def test_a_case_by_hand():
    """Budget 3 with one contextual token: two dominant; of the rest every third is a target."""
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0]]])
    attention = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]]])
    out = VisionZip(3, contextual=1 / 3)(
        VisualTokens.of(x), Context(cls_attention=attention, keys=keys)
    )
    # Dominant 1 and 3; target 0; 2 and 4 join it: 1 + mean(3, 5).
    assert out.owner.tolist() == [[0, 1, 0, 2, 0]]
    assert out.x[0, :, 0].tolist() == [5.0, 2.0, 4.0]


def test_each_joins_the_target_with_the_most_similar_key():
    torch.manual_seed(0)
    x, keys, attention = torch.randn(2, 30, 4), torch.randn(2, 30, 4), torch.rand(2, 30)
    out = VisionZip(12, contextual=4 / 12)(
        VisualTokens.of(x), Context(cls_attention=attention, keys=keys)
    )
    assert out.counts.tolist() == [12, 12]
    unit = torch.nn.functional.normalize(keys, dim=-1)
    for row in range(2):
        dominant = set(attention[row].topk(8).indices.tolist())
        rest = [i for i in range(30) if i not in dominant]
        targets = rest[:: len(rest) // 4][:4]
        for i in rest:
            if i not in targets:
                nearest = max(targets, key=lambda t: float(unit[row, i] @ unit[row, t]))
                assert out.owner[row, i] == out.owner[row, nearest]
        for t in targets:
            joined = [i for i in rest if i != t and out.owner[row, i] == out.owner[row, t]]
            want = x[row, t] + (x[row, joined].mean(0) if joined else 0)
            torch.testing.assert_close(out.x[row, out.owner[row, t]], want)


def test_the_contextual_share_is_checked():
    with pytest.raises(ValueError, match=r"contextual=1\.0"):
        VisionZip(4, contextual=1.0)


# Budgets of views


def seen(P, width=4, batch=1):
    torch.manual_seed(P)
    return torch.randn(batch, P, width), torch.rand(batch, P), torch.randn(batch, P, 5)


def zipped(method, x, attention, keys, grid, valid=None):
    return method(VisualTokens.of(x, valid), Context(cls_attention=attention, keys=keys, grid=grid))


def same(got, want, patches):
    """Whether the tokens on these patches of the first are those of the second."""
    mine, theirs = got.owner[0, patches], want.owner[0]
    assert torch.equal(mine < 0, theirs < 0)
    torch.testing.assert_close(got.x[0, mine[mine >= 0]], want.x[0, theirs[theirs >= 0]])


@pytest.mark.parametrize("keep", [1, 3, 0.5, 1.0])
def test_every_view_has_the_budget_as_if_it_were_an_image(keep):
    """Three views of different sizes, one of them smaller than the budget."""
    grid = views((4, 5), (2, 5), (1, 2))
    x, attention, keys = seen(32)
    method = VisionZip(keep, contextual=1 / 3, per_view=True)
    out, first = zipped(method, x, attention, keys, grid), 0
    counts = []
    for size in (20, 10, 2):
        of = slice(first, first + size)
        alone = zipped(method.but(per_view=False), x[:, of], attention[:, of], keys[:, of], None)
        same(out, alone, list(range(first, first + size)))
        counts.append(int(alone.counts))
        first += size
    assert out.counts.tolist() == [sum(counts)]
    if keep == 3:
        assert counts == [3, 3, 2]


def test_tiles_that_are_joined_are_views():
    """LLaVA-NeXT: behind a view of 3 × 3, tiles of 3 × 3 in two columns, unpadded to the rows 1 to 4."""
    whole = views((3, 3))
    joined = [(1, row, column) for row in range(1, 5) for column in range(6)]
    grid = torch.cat([whole, torch.tensor([joined])], 1)
    x, attention, keys = seen(9 + 24)
    method = VisionZip(2, contextual=0.0, per_view=True)
    out = zipped(method, x, attention, keys, grid)
    part = torch.tensor(
        [4 * (view > 0) + 2 * (row // 3) + column // 3 for view, row, column in grid[0].tolist()]
    )
    for one, patches in ((n, (part == n).nonzero()[:, 0]) for n in part.unique()):
        want = attention[0, patches].topk(2).indices
        kept = (out.owner[0, patches] >= 0).nonzero()[:, 0]
        assert kept.tolist() == sorted(want.tolist()), f"tile {one}"
    assert out.counts.tolist() == [2 * 5]
    anchors = out.anchor[0].tolist()
    assert anchors == sorted(anchors)


def test_one_view_is_as_without_and_rows_are_ragged():
    x, attention, keys = seen(20, batch=2)
    valid = torch.arange(20) < torch.tensor([[20], [6]])
    grid = torch.cat([views((4, 5)), views((2, 3), (2, 7))])
    grid[1, 6:] = -1
    got, want = (
        zipped(VisionZip(4, per_view=p), x, attention, keys, grid, valid) for p in (True, False)
    )
    assert torch.equal(got.owner, want.owner) and torch.equal(got.valid, want.valid)
    assert torch.equal(got.x, want.x)
    with pytest.raises(ValueError, match="per_view='yes': want one of True, False"):
        VisionZip(4, per_view="yes")


@pytest.mark.parametrize(
    ("name", "projected"),
    [("llava_next", False), ("internvl", True), ("llava_onevision", True), ("qwen2_5_vl", True)],
)
def test_a_model_has_the_budget_of_every_view(name, projected):
    """In a batch of images with and without tiles, and videos: no view keeps more, nor fewer than it has."""
    family = FAMILIES[name]
    method = VisionZip(3, projected=projected, per_view=True)
    model = foveate.compress(family.model(), method, positions="renumbered", newlines="none")
    for prompts in family.batches().values():
        with torch.no_grad(), foveate.trace(model) as found:
            model(**family.inputs(prompts))
        for grid, owner in zip(found.steps[0].grid, found.steps[0].owner, strict=True):
            inside = grid[:, 0] >= 0
            side = grid[grid[:, 0] == 0][:, 1:].amax(0) + 1
            tile = [
                (int(v), *(cell // side).tolist())
                for v, *_, cell in zip(grid[:, 0], grid[:, 1:], strict=True)
            ]
            kept = {}
            for patch in inside.nonzero()[:, 0].tolist():
                kept.setdefault(tile[patch], set()).add(int(owner[patch]))
            sizes = {key: tile.count(key) for key in kept}
            assert {k: len(v - {-1}) for k, v in kept.items()} == {
                k: min(3, n) for k, n in sizes.items()
            }
