"""LLaVolta's claims on PatchQA: what is run."""

from __future__ import annotations

from dataclasses import replace

from protocol import OWN, Ask, Page, Run

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
# Is it the length of training? One schedule and the baseline again, with twice the steps.
BEST, LONG = "four_stage_wider_deeper", 240
LAYERS, STRIDES = (0, 1, 2, 3, 4), (2, 4, 8, 16)
CURVE = tuple(Ask("pool", {"stride": s, "layer": k}) for k in LAYERS for s in STRIDES)


def _recipe(seed: int, method: str = "identity", arguments: dict | None = None) -> Recipe:
    return replace(RECIPES["patchqa"](), seed=seed, method=method, arguments=arguments or {})


def _runs() -> list[Run]:
    """The first seed of everything, then the others, the small budget before the schedules."""
    tests = (OWN, *(Ask(slug, arguments) for slug, arguments in SMALL.items()))
    small, staged = {}, {}
    for seed in SEEDS:
        small[seed] = [
            Run(f"baseline-seed{seed}", _recipe(seed), tests),
            *(Run(f"{m}-seed{seed}", _recipe(seed, m, given)) for m, given in SMALL.items()),
        ]
        staged[seed] = [
            Run(f"{name}-seed{seed}", replace(RECIPES[f"llavolta_{name}_patchqa"](), seed=seed))
            for name in (STAGED if seed else SCHEDULES)
        ]
    first, *others = SEEDS
    long = [
        Run(f"{name}-long-seed{first}", replace(card, steps=LONG, seed=first))
        for name, card in [
            ("baseline", _recipe(first)),
            (BEST, RECIPES[f"llavolta_{BEST}_patchqa"]()),
        ]
    ]
    rest = [run for kind in (small, staged) for seed in others for run in kind[seed]]
    return [Run("embedded", None, (OWN, *CURVE)), *small[first], *staged[first], *long, *rest]


PAGE = Page("llavolta", tuple(_runs()))
