"""VScan, arXiv:2505.22654."""

import pytest
import torch
from methods_by_hand import looked_at, ragged
from probes import views

from foveate import Context, GlobalLocalScan, MiddleCut, VisualTokens, vscan


def scanned(shallow, deep, n, cells, side):
    """Window by window, then the whole."""
    windows = {}
    for i, (v, r, c) in enumerate(cells):
        windows.setdefault((v, r // side, c // side), []).append(i)
    each = n // 2 // len(windows)
    local = [i for window in windows.values() for i in looked_at(shallow, each, window)]
    others = [i for i in range(len(cells)) if i not in local]
    return sorted(local + looked_at(deep, n - len(local), others))


@pytest.mark.parametrize("n", [1, 8, 16, 21, 42])
def test_windows_and_the_whole_and_all_others_join(n):
    """Two views, with windows that the grid does not fill; kept ones become the mean with what joins them."""
    tokens, shallow = ragged([42, 42])
    deep = ragged([42, 42], seed=1)[1]
    grid = views((5, 6), (3, 4)).expand(2, -1, -1)
    context = Context(cls_attention=deep, attentions={5: shallow}, grid=grid)
    out = GlobalLocalScan(n, window=2)(tokens, context)
    assert out.counts.tolist() == [n, n]
    unit = torch.nn.functional.normalize(tokens.x, dim=-1)
    for b in range(2):
        found = scanned(shallow[b], deep[b], n, grid[b].tolist(), 2)
        joins = {
            i: i if i in found else max(found, key=lambda k: float(unit[b, i] @ unit[b, k]))
            for i in range(42)
        }
        for k in found:
            members = [i for i in range(42) if joins[i] == k]
            token = out.owner[b, k]
            assert (out.owner[b] == token).nonzero()[:, 0].tolist() == members
            torch.testing.assert_close(out.x[b, token], tokens.x[b, members].mean(0))


def test_llavas_grid_has_sixteen_windows():
    """96 of 24 × 24 patches: three in each window, though the shallow block looks at one of them alone."""
    shallow, deep = torch.zeros(1, 576), torch.zeros(1, 576)
    grid = views((24, 24))
    deep[0, :48] = 1.0
    shallow[0, 50:100] = 1.0
    context = Context(cls_attention=deep, attentions={5: shallow}, grid=grid)
    x = torch.randn(1, 576, 4, generator=torch.Generator().manual_seed(0))
    out = GlobalLocalScan()(VisualTokens.of(x), context)
    assert out.counts.tolist() == [96]


def test_three_times_the_budget_comes_in_and_half_way_it_is_cut():
    scan, cut = vscan().parts()
    assert (scan.keep, cut.keep, cut.site.layer, scan.vision_blocks) == (96, 32, 16, (5,))
    scan, cut = vscan(0.5, layers=6, tower_layers=4).parts()
    assert (scan.keep, cut.keep, cut.site.layer, scan.vision_blocks) == (1.0, 0.5, 3, (1,))
    tokens = VisualTokens.of(torch.randn(2, 9, 4)).where(torch.arange(9) % 3 != 0)
    looks = torch.arange(6.0).expand(2, -1)
    left = MiddleCut(0.25, 1)(tokens, Context(own_attention=looks))
    assert left.counts.tolist() == [2, 2]  # a quarter of nine patches, not of six tokens
    assert torch.equal(left.x, tokens.x[:, 4:])
