"""What compression costs where Python is what is waited for: python recipes/decoding_speed.py

A model of 32 layers of width 64, batch 1, on one thread: a decoding step takes ten milliseconds, nearly all
of them between the kernels. Each method's step and prefill beside the bare model's, by turns. Writes
results/decoding-speed.json: medians of the ratios, and their quartiles.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from foveate import DivPrune, FastV, Identity, Stride, compress
from foveate.bench.clock import load
from foveate.keeping.provenance import dumps, record, write

ROOT = Path(__file__).parents[1]
PATCHES, TEXT, STEPS = 144, 16, 12
LAYERS = {"layers": 32, "width": 64}
METHODS: dict[str, tuple[Any, dict[str, str]]] = {
    "identity": (Identity, {}),
    "stride": (lambda: Stride(36), {}),
    "divprune": (lambda: DivPrune(36), {}),
    "divprune, renumbered": (lambda: DivPrune(36), {"positions": "renumbered"}),
    "fastv": (lambda: FastV(36, layer=2), {}),
    "fastv, renumbered": (lambda: FastV(36, layer=2), {"positions": "renumbered"}),
}


def bare() -> LlavaForConditionalGeneration:
    """Many narrow layers, with random weights."""
    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=96,
        patch_size=8,
    )
    speaker = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=200,
    )
    config = LlavaConfig(vision_config=tower, text_config=speaker, image_token_index=199)
    return LlavaForConditionalGeneration(config).eval()


@torch.inference_mode()
def once(model: Any) -> tuple[float, float]:
    """Seconds of processor time of a prefill, and the median of a decoding step."""
    ids = torch.randint(0, 198, (1, PATCHES + TEXT), generator=torch.Generator().manual_seed(0))
    ids[0, 5 : 5 + PATCHES] = 199
    mask, cache = torch.ones_like(ids), DynamicCache(config=model.config.get_text_config())
    given: dict[str, Any] = {"input_ids": ids, "pixel_values": torch.ones(1, 3, 96, 96)}
    times = []
    for step in range(STEPS + 1):
        start = time.process_time()
        out = model(**given, attention_mask=mask, past_key_values=cache, use_cache=True)
        times.append(time.process_time() - start)
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
        place = torch.tensor([[ids.shape[1] + step]])
        given = {"input_ids": out.logits[:, -1:].argmax(-1), "position_ids": place}
    return times[0], float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "decoding-speed.json")
    told, before = parser.parse_args(), load()
    torch.set_num_threads(1)
    whole = bare()
    models = {
        name: compress(copy.deepcopy(whole), make(), **how) for name, (make, how) in METHODS.items()
    }
    models = {"bare": whole, **models}
    for model in models.values():
        once(model)
    rounds = [{name: once(model) for name, model in models.items()} for _ in range(told.rounds)]
    found = {}
    for name in METHODS:
        ratios = np.array([np.divide(one[name], one["bare"]) for one in rounds])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0).round(4).tolist()
        found[name] = {
            what: {"median": middle[k], "quartiles": [low[k], high[k]]}
            for k, what in enumerate(("prefill", "step"))
        }
    seconds = np.median([one["bare"] for one in rounds], axis=0).tolist()
    document = {
        "model": {**LAYERS, "visual_tokens": PATCHES, "text_tokens": TEXT},
        "bare_seconds": {"prefill": seconds[0], "step": seconds[1]},
        "rounds": told.rounds,
        "load": before,
        "to_bare": found,
        "circumstances": record(0),
    }
    write(told.out, dumps(document))


if __name__ == "__main__":
    main()
