"""What choosing costs beside the prefill that it shortens, at LLaVA-1.5-7B's widths: each method's first cut.

python recipes/selector_speed.py [--out results/selectors.json] [--rounds 5] [--threads 2]

Few blocks of the tower, a decoder layer on all tokens and on those that are left, and the methods take turns
in one run; a prefill is as many times those as the whole model has. What a method saves is counted on two
decoder layers, bench's slice of the model: there its share is sixteen times that of the whole. MACs are of
matrix products. Random weights and tokens; what a method reads of a layer is given to it.
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

from foveate import METHODS, Compressor, Context, Fovea, VisualTokens
from foveate.bench.clock import Spread, Timing, interleaved
from foveate.bench.configs import CLIP, LLAVA, SLICE
from foveate.core.compressor import Tower
from foveate.keeping.provenance import dumps, record, write

ROOT = Path(__file__).parents[1]
SIDE, WORDS, TEXT = 24, 40, 64  # patches of a view; words that are read, and columns of text
BLOCKS, LAYERS = 3, 1  # of each, how many are timed
WHOLE = {
    "tower": 23,
    "language": 32,
}  # and of how many a prefill is: the tower's last block is not read
SLICED = SLICE["text_config"]["num_hidden_layers"]
ASKED = "fovea by the question"


class Size(NamedTuple):
    """Views of a picture, and the tokens that are left of it."""

    views: int
    keep: int

    @property
    def tokens(self) -> int:
        """Tokens of the picture."""
        return self.views * SIDE**2


SIZES = (Size(1, 64), Size(5, 640))


def methods(size: Size) -> dict[str, Compressor]:
    """Those that choose without weights, by the first of their cuts; and Fovea with its scorer."""
    found = {}
    for slug, make in METHODS.items():
        try:
            part = make(keep=size.keep).parts()[0]
        except ValueError:  # no budget in tokens
            continue
        if part.selects and not any(True for _ in part.parameters()):
            found[slug] = part.eval()
    width = LLAVA["text_config"]["hidden_size"]
    return found | {ASKED: Fovea(size.keep, "question", "mean", width).eval()}


def seen(part: Compressor, size: Size) -> tuple[VisualTokens, Context]:
    """A picture's tokens where this one stands, and what it reads."""
    torch.manual_seed(0)
    N, patch = size.tokens, torch.arange(size.tokens)
    wide, narrow = LLAVA["text_config"]["hidden_size"], CLIP["hidden_size"]
    looks = {i: torch.rand(1, N).softmax(1) for i in range(-24, 24)}
    mask = torch.ones(1, WORDS, dtype=torch.bool)
    said = {"normed": torch.randn(1, WORDS, wide), "key_size": torch.rand(1, WORDS), "mask": mask}
    known = {
        "grid": torch.stack([patch // SIDE**2, patch % SIDE**2 // SIDE, patch % SIDE], -1)[None],
        "overview": (patch < SIDE**2)[None],
        "text": torch.randn(1, WORDS, wide),
        "text_mask": mask,
        "words": said,
        "normed": torch.randn(1, N, wide),
        "previous": torch.randn(1, N, wide),
        "key_size": torch.rand(1, N),
        "cls_attention": looks[-2],
        **dict.fromkeys(("last_attention", "own_attention", "prompt_attention"), looks[-1]),
        "attentions": looks,
        "received": looks,
        "keys": torch.randn(1, N, 64),
        "generator": (torch.Generator().manual_seed(0),),
    }
    x = torch.randn(1, N, narrow if part.site.tower == Tower.features else wide)
    return VisualTokens.of(x), Context(**{name: known[name] for name in part.needs})


def calls(size: Size) -> dict[str, Callable[[], Any]]:
    """What takes turns: the model's parts, and every method."""
    layers = LlamaConfig(
        **LLAVA["text_config"] | {"num_hidden_layers": LAYERS, "vocab_size": 99, "pad_token_id": 0}
    )
    tower = CLIPVisionModel(CLIPVisionConfig(**CLIP | {"num_hidden_layers": BLOCKS})).eval()
    decoder = LlamaModel(layers).eval()
    found: dict[str, Callable[[], Any]] = {
        "tower": partial(tower, torch.randn(size.views, 3, 336, 336))
    }
    for name, n in (("language", size.keep), ("all", size.tokens)):
        prompt = torch.randn(1, n + TEXT, layers.hidden_size)
        found[name] = partial(decoder, inputs_embeds=prompt, use_cache=True)
    return found | {name: partial(part, *seen(part, size)) for name, part in methods(size).items()}


def macs(call: Callable[[], Any]) -> int:
    """Multiply-accumulates of its matrix products."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


def whole(part: str, value: float) -> float:
    """That of a prefill, of what was taken of some layers."""
    return value * WHOLE[part] / {"tower": BLOCKS, "language": LAYERS}[part]


def shares(timings: dict[str, list[Timing]], name: str) -> tuple[list[float], list[float]]:
    """Of each round, a method's part of a prefill's wall time, and of what it saves on the slice."""
    rounds = zip(*(timings[n] for n in ("tower", "language", "all", name)), strict=True)
    pairs = [
        (
            own.wall / (whole("tower", tower.wall) + whole("language", few.wall)),
            own.wall / (SLICED * (every.wall - few.wall) / LAYERS),
        )
        for tower, few, every, own in rounds
    ]
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)


@torch.inference_mode()
def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "selectors.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    sizes = [measured(size, options.rounds) for size in SIZES]
    rounds = {"rounds": options.rounds, "threads": options.threads}
    write(options.out, dumps({**record(seed=0), **rounds, "sizes": sizes}))


def measured(size: Size, rounds: int) -> dict[str, Any]:
    """Every method at this size, told as it is found."""
    run = calls(size)
    timings = interleaved(run, rounds, warmup=1)
    prefill = sum(whole(name, macs(run[name])) for name in WHOLE)
    found = {}
    for name in [n for n in run if n not in (*WHOLE, "all")]:
        of_prefill, of_saved = (Spread.of(each).median for each in shares(timings, name))
        seconds = Spread.of([t.wall for t in timings[name]]).median
        own = macs(run[name])
        found[name] = {
            "macs": own,
            "macs_share": own / prefill,
            "seconds": seconds,
            "time_share": of_prefill,
            "saved_share": of_saved,
        }
        print(
            f"{size.keep} of {size.tokens} tokens, {name}: {100 * of_prefill:.2f} % of a prefill's time, "
            f"{100 * of_saved:.1f} % of what it saves on {SLICED} layers"
        )
    return {"tokens": size.tokens, "keep": size.keep, "methods": found}


if __name__ == "__main__":
    main()
