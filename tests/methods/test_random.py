"""Random selection, a baseline: no paper."""

import torch

from foveate import Context, Random, VisualTokens


def kept(seed, rows=1):
    method = Random(100, seed=seed)
    generators = tuple(torch.Generator().manual_seed(seed) for _ in range(rows))
    out = method(VisualTokens.of(torch.ones(rows, 1000, 1)), Context(generator=generators))
    return (out.owner >= 0).float()


def test_seeds_differ_and_every_token_has_its_chance():
    assert not torch.equal(kept(0), kept(1))
    share = torch.stack([kept(s)[0] for s in range(200)]).mean(0)
    assert abs(share.mean() - 0.1) < 1e-6 and share.max() < 0.25 and share.min() >= 0.02
