"""Method by method: tokens, MACs, time to the first token and for each further one, cache, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.clock import Advance, Spread, Timing, interleaved, peak_bytes, ratio, twin
from foveate.bench.limits import limits, prefill
from foveate.bench.reference import reference
from foveate.compressor import Compressor
from foveate.hosts import cost, traits
from foveate.hosts.attach import compress, trace
from foveate.methods import METHODS
from foveate.ops import Keep
from foveate.provenance import record

BARE = "identity"


def bench(
    model: nn.Module | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    methods: Iterable[str] = tuple(METHODS),
    keep: Keep = 0.25,
    pairs: int = 30,
    rounds: int = 7,
    seed: int = 0,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Everything `foveate bench` tells, JSON-ready: {"model", "prompt", "keep", "rows", "limits", "run"}.

    model and inputs (one prompt, one image): the reference model if not given. `advance(1, what)` is
    called `ticks(pairs, rounds)` times. Raises ValueError for a budget a method cannot express.
    """
    if model is None or inputs is None:
        model, inputs = reference(seed)
    made = {slug: METHODS[slug](keep=keep) for slug in methods if slug != BARE}
    visual = int((inputs["input_ids"] == traits.placeholder_id(traits.base_of(model))).sum())
    return {
        "model": _name(model),
        "prompt": {"visual": visual, "text": inputs["input_ids"].shape[1] - visual},
        "keep": keep,
        "rows": table(model, inputs, made, rounds, advance=advance),
        "limits": limits(model, inputs, keep, pairs=pairs, advance=advance),
        "run": record(seed, next(model.parameters()).device),
    }


def ticks(pairs: int, rounds: int) -> int:
    """How often `bench` advances."""
    return 2 * pairs + rounds


def table(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    methods: Mapping[str, Compressor],
    rounds: int = 7,
    new_tokens: int = 16,
    advance: Advance | None = None,
) -> list[dict[str, Any]]:
    """One row for the bare model and each method, all timed in one interleaved run."""
    models = {BARE: model}
    models |= {slug: compress(twin(model), method) for slug, method in methods.items()}
    decodes: dict[str, list[float]] = {slug: [] for slug in models}
    calls = {}
    for slug, one in models.items():
        calls[slug] = prefill(one, inputs)
        calls[f"{slug}…"] = _decoding(one, inputs, new_tokens, decodes[slug])
    timings = interleaved(calls, rounds, warmup=1, advance=advance)
    rows = []
    for slug, one in models.items():
        about = {"method": slug, "compressor": repr(methods[slug]) if slug in methods else "bare"}
        counts = _counts(one, inputs, methods.get(slug))
        times = _times(timings[slug], timings[BARE], decodes[slug][1:])
        rows.append({**about, **counts, **times, "peak_bytes": _peak(one, inputs)})
    return rows


def _counts(model: nn.Module, inputs: Mapping[str, Tensor], method: Any) -> dict[str, Any]:
    """What can be counted rather than timed."""
    ids = inputs["input_ids"]
    patches = int((ids == traits.placeholder_id(traits.base_of(model))).sum())
    text, steps, own = ids.shape[1] - patches, [], 0
    if method is not None:
        with trace(model) as seen, torch.no_grad():
            prefill(model, inputs)()
        steps = seen.steps
        own = cost.own_macs(model, prefill(model, inputs))
    load = cost.load(model, text, [patches], steps)
    parts = method.parts() if method is not None else []
    spent = cost.cost(model, load, parts, own).as_dict()
    names = ("vision", "connector", "scorer", "language", "total")
    return {
        "tokens": int(steps[-1].after.sum()) if steps else patches,
        "equivalent_tokens": spent["equivalent_tokens"],
        "macs": {name: spent[name] for name in names},
        "flops": spent["flops"],
        "kv_bytes": spent["kv_bytes"],
    }


def _times(mine: list[Timing], bare: list[Timing], decodes: list[float]) -> dict[str, Any]:
    return {
        "prefill_s": asdict(Spread.of([t.wall for t in mine])),
        "prefill_cpu_s": asdict(Spread.of([t.cpu for t in mine])),
        "prefill_ratio": asdict(ratio(mine, bare)),
        "decode_s_per_token": asdict(Spread.of(decodes)),
    }


def _decoding(
    model: nn.Module, inputs: Mapping[str, Tensor], new_tokens: int, found: list[float]
) -> Callable[[], Any]:
    """A `generate` call that adds seconds per further token to `found`."""
    length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}

    def call() -> None:
        clock = Ticks()
        model.generate(**inputs, **length, do_sample=False, streamer=clock)
        first, *_, last = clock.at[1:]  # the first thing a streamer is given is the prompt
        found.append((last - first) / (new_tokens - 1))

    return call


class Ticks:
    """A streamer that only looks at the clock."""

    def __init__(self):
        self.at: list[float] = []

    def put(self, value: Tensor) -> None:
        """A token, which a GPU has to have finished to be here."""
        self.at.append(time.perf_counter())

    def end(self) -> None:
        """Nothing left to do."""


def _peak(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    with torch.no_grad():
        return peak_bytes(prefill(model, inputs))


def _name(model: nn.Module) -> str:
    text = model.config.get_text_config()
    given = getattr(model.config, "_name_or_path", "")
    size = f"{text.num_hidden_layers} layers, {text.hidden_size} wide"
    return given or f"random {type(model).__name__}, {size}"
