"""LLaVolta's claims on PatchQA: which of the paper's shapes hold on the twin, and which do not."""

from __future__ import annotations

from dataclasses import replace

from protocol import OWN, Ask, Run

from foveate.methods.llavolta import SCHEDULES
from foveate.train import RECIPES, Recipe

SEEDS = (0, 1, 2)
STAGED = tuple(name for name in SCHEDULES if name not in ("heavy", "light"))
# One small budget, 24 of 144 visual tokens from layer 1 of 6 on: the paper's layer 2 of 32, scaled.
SMALL = {
    "pool": {"stride": 6, "layer": 1},
    "random": {"keep": 24, "layer": 1},
    "kmeans": {"keep": 24, "layer": 1},
    "fastv": {"keep": 24, "layer": 1},
    "vccattention": {"keep": 24, "block": 16, "layer": 1},
}
LAYERS, STRIDES = (0, 1, 2, 3, 4), (2, 4, 8, 16)
CURVE = tuple(Ask("pool", {"stride": s, "layer": k}) for k in LAYERS for s in STRIDES)


def _recipe(seed: int, method: str = "identity", arguments: dict | None = None) -> Recipe:
    return replace(RECIPES["patchqa"](), seed=seed, method=method, arguments=arguments or {})


def _runs() -> list[Run]:
    """Seed by seed, so that what is there at any time is whole rows."""
    tests = (OWN, *(Ask(slug, arguments) for slug, arguments in SMALL.items()))
    runs = [Run("embedded", None, (OWN, *CURVE))]
    for seed in SEEDS:
        runs.append(Run(f"baseline-seed{seed}", _recipe(seed), tests))
        runs += [Run(f"{m}-seed{seed}", _recipe(seed, m, given)) for m, given in SMALL.items()]
        runs += [
            Run(f"{name}-seed{seed}", replace(RECIPES[f"llavolta_{name}_patchqa"](), seed=seed))
            for name in (STAGED if seed else SCHEDULES)
        ]
    return runs


RUNS = _runs()


def write() -> str:
    raise NotImplementedError
