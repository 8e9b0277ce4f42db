"""What Flash Global Fusion costs beside the vision tower it stands behind, at the size of LLaVA-1.5.

python recipes/fusion_speed.py [--out results/fusion.json] [--rounds 9] [--threads 2]

The tower and every variant take turns in one run, a forward pass each; what is compared is the median of the
paired ratios. Random weights: time does not depend on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from foveate import Context, FlashGlobalFusion, VisualTokens
from foveate.bench.clock import interleaved, ratio
from foveate.bench.configs import CLIP
from foveate.keeping.provenance import dumps, record, write

ROOT = Path(__file__).parents[1]
SIDE, WORDS, WIDTH, FEATURE = 24, 40, 4096, 1024
VARIANTS = {
    "pair": {},
    "add": {"scan": "add"},
    "window": {"scan": "window"},
    "pair, forward only": {"directions": "forward"},
    "pair, one block": {"depth": 1},
    "pair, blocks half as wide": {"expand": 1},
    "pair, without words": {"text": False},
    "pair, mamba1": {"operator": "mamba1"},
    "add, mamba1": {"scan": "add", "operator": "mamba1"},
}


def seen() -> tuple[VisualTokens, Context]:
    """One image's features, a question, and the grid."""
    torch.manual_seed(0)
    patch = torch.arange(SIDE * SIDE)
    grid = torch.stack([0 * patch, patch // SIDE, patch % SIDE], -1)[None]
    said = {"text": torch.randn(1, WORDS, WIDTH), "text_mask": torch.ones(1, WORDS).bool()}
    return VisualTokens.of(torch.randn(1, SIDE * SIDE, FEATURE)), Context(grid=grid, **said)


def calls() -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """What takes turns, the tower first, and the parameters of each."""
    tower, given = CLIPVisionModel(CLIPVisionConfig(**CLIP)).eval(), seen()
    modules = {name: FlashGlobalFusion(**own).eval() for name, own in VARIANTS.items()}
    found = {"tower": partial(tower, torch.randn(1, 3, 336, 336))}
    found |= {name: partial(module, *given) for name, module in modules.items()}
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in modules.items()}
    return found, sizes


@torch.inference_mode()
def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fusion.json")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    run, sizes = calls()
    timings = interleaved(run, options.rounds)
    found = {
        name: {"parameters": sizes[name], **asdict(ratio(timings[name], timings["tower"]))}
        for name in VARIANTS
    }
    size = {"tokens": SIDE * SIDE, "words": WORDS, "width": WIDTH, "feature_width": FEATURE}
    write(options.out, dumps({**record(seed=0), "size": size, "to_tower": found}))
    for name, own in found.items():
        wall, cpu = (100 * own[clock]["median"] for clock in ("wall", "cpu"))
        print(f"{name}: {wall:.1f} % of the tower's time, {cpu:.1f} % of its processor time")


if __name__ == "__main__":
    main()
