"""What Fovea's scorer and tree cost beside the prefill they shorten, at the widths of LLaVA-1.5-7B.

python recipes/fovea_speed.py [--out results/fovea-speed.json] [--rounds 9] [--threads 2]

Few blocks of the tower, a decoder layer and Fovea take turns in one run; a prefill is as many times those as
the whole model has. MACs are of matrix products: what the tree adds and compares is in the times alone.
Random weights: time does not depend on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

from foveate import Context, Fovea, VisualTokens
from foveate.bench.clock import Spread, Timing, interleaved
from foveate.bench.configs import CLIP, LLAVA
from foveate.keeping.provenance import dumps, record, write

ROOT = Path(__file__).parents[1]
SIDE, WORDS, TEXT = 24, 40, 64  # patches of a view; words that are read, and columns of text
BLOCKS, LAYERS = 3, 1  # of each, how many are timed
WHOLE = {
    "tower": 23,
    "language": 32,
}  # and of how many a prefill is: the tower's last block is not read


class Size(NamedTuple):
    """Views of a picture, and the tokens that are left of it."""

    views: int
    keep: int

    @property
    def tokens(self) -> int:
        """Tokens of the picture."""
        return self.views * SIDE**2


SIZES = (Size(1, 64), Size(5, 640))


def seen(size: Size, width: int) -> tuple[VisualTokens, Context]:
    """A picture's tokens, a question, and the grid."""
    torch.manual_seed(0)
    patch = torch.arange(size.tokens)
    grid = [patch // SIDE**2, patch % SIDE**2 // SIDE, patch % SIDE]
    said = {"text": torch.randn(1, WORDS, width), "text_mask": torch.ones(1, WORDS).bool()}
    x = VisualTokens.of(torch.randn(1, size.tokens, width))
    return x, Context(grid=torch.stack(grid, -1)[None], **said)


def calls(size: Size) -> dict[str, Callable[[], Any]]:
    """What takes turns."""
    layers = LlamaConfig(
        **LLAVA["text_config"] | {"num_hidden_layers": LAYERS, "vocab_size": 99, "pad_token_id": 0}
    )
    tower = CLIPVisionModel(CLIPVisionConfig(**CLIP | {"num_hidden_layers": BLOCKS})).eval()
    language, width = LlamaModel(layers).eval(), layers.hidden_size
    fovea = Fovea(size.keep, weights="question", vector="mean", width=width).eval()
    prompt = torch.randn(1, size.keep + TEXT, width)
    return {
        "tower": partial(tower, torch.randn(size.views, 3, 336, 336)),
        "language": partial(language, inputs_embeds=prompt, use_cache=True),
        "fovea": partial(fovea, *seen(size, width)),
    }


def macs(call: Callable[[], Any]) -> int:
    """Multiply-accumulates of its matrix products."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


def whole(part: str, value: float) -> float:
    """That of a prefill, of what was taken of some layers."""
    return value * WHOLE[part] / {"tower": BLOCKS, "language": LAYERS}[part]


def shares(timings: dict[str, list[Timing]]) -> list[float]:
    """Of each round, Fovea's part of a prefill's wall time."""
    rounds = zip(*(timings[name] for name in ("tower", "language", "fovea")), strict=True)
    return [f.wall / (whole("tower", t.wall) + whole("language", n.wall)) for t, n, f in rounds]


@torch.inference_mode()
def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fovea-speed.json")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    found = []
    for size in SIZES:
        run = calls(size)
        counted = {name: macs(call) for name, call in run.items()}
        prefill = sum(whole(name, counted[name]) for name in WHOLE)
        time = Spread.of(shares(interleaved(run, options.rounds)))
        own = {"tokens": size.tokens, "keep": size.keep, "macs": counted["fovea"]}
        found.append({**own, "macs_share": counted["fovea"] / prefill, "time_share": time})
        print(
            f"{size.keep} of {size.tokens} tokens: {100 * counted['fovea'] / prefill:.2f} % of a prefill's "
            f"MACs, {100 * time.median:.2f} % of its time"
        )
    rounds = {"rounds": options.rounds, "threads": options.threads}
    told = [{**one, "time_share": vars(one["time_share"])} for one in found]
    write(options.out, dumps({**record(seed=0), **rounds, "sizes": told}))


if __name__ == "__main__":
    main()
