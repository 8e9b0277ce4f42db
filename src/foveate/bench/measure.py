"""One cell of a benchmark, timed: a method at a budget and a batch size, beside the bare model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.clock import Advance, Spread, Timing, interleaved, peak_bytes, ratio
from foveate.bench.connector import connector, tower
from foveate.bench.count import prefill, text_columns
from foveate.bench.limits import ideal, short_prefill
from foveate.core.compressor import Compressor
from foveate.hosts.attach import compress
from foveate.hosts.twins import twin


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    pairs       rounds of prefills: the method, the bare model and the short prompts, in turn
    rounds      rounds of answers: the method and the bare model, in turn; 0 for none
    new_tokens  lengths at which an answer's time is read off
    """

    pairs: int = 30
    rounds: int = 5
    new_tokens: tuple[int, ...] = (1, 16, 128)


def measure(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    method: Compressor | None,
    layers: Sequence[int],
    effort: Effort,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Times in seconds for the whole batch, ratios to the bare model and to the limit, and memory.

    layers: visual columns in each decoder layer, as counted. method None is the bare model alone.
    Everything in a ratio runs interleaved, round by round; the model stays bare.
    """
    models = {"bare": model}
    if method is not None:
        models["method"] = compress(twin(model), method)
    found = prefills(models, inputs, layers, effort.pairs, advance)
    if effort.rounds:
        found |= _answers(models, inputs, effort, advance)
    with torch.no_grad():
        found["peak_bytes"] = peak_bytes(prefill(list(models.values())[-1], inputs), model.device)
    return found


def prefills(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Sequence[int],
    pairs: int,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Prefill of the last of the models, and its ratios to the first, "bare", and to the limit.

    Also the connector's share of it. layers: visual columns in each decoder layer.
    """
    bare = models["bare"]
    whole = inputs["input_ids"].shape[1] - text_columns(bare, inputs)
    calls = {name: prefill(one, inputs) for name, one in models.items()}
    short = [n for n in dict.fromkeys(layers) if n < whole]
    calls |= {_short(n): short_prefill(bare, inputs, n) for n in short}
    last = list(models)[-1]
    calls |= {
        "tower": tower(bare, calls["bare"]),
        "connector": connector(models[last], calls[last]),
    }
    timings = interleaved(calls, pairs, advance=advance)
    mine = timings[last]
    found = {
        "prefill_s": asdict(Spread.of([t.wall for t in mine])),
        "prefill_cpu_s": asdict(Spread.of([t.cpu for t in mine])),
        "tower_s": asdict(Spread.of([t.wall for t in timings["tower"]])),
        "connector_s": asdict(Spread.of([t.wall for t in timings["connector"]])),
        "connector_share": asdict(ratio(timings["connector"], mine)),
    }
    if len(models) > 1:
        lengths = {n: timings.get(_short(n), timings["bare"]) for n in layers}
        found["to_bare"] = asdict(ratio(mine, timings["bare"]))
        behind = [_less(timings[name], timings["tower"]) for name in (last, "bare")]
        found["to_bare_behind_tower"] = asdict(ratio(*behind))
        found["to_limit"] = asdict(ratio(mine, ideal(lengths, layers)))
    return found


def _less(whole: Sequence[Timing], part: Sequence[Timing]) -> list[Timing]:
    """Round by round the time without a part of it; at least a nanosecond, whatever the noise."""
    pairs = zip(whole, part, strict=True)
    return [Timing(*(max(a - b, 1e-9) for a, b in zip(*one, strict=True))) for one in pairs]


def _short(visual: int) -> str:
    return f"{visual} visual"


def _answers(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    effort: Effort,
    advance: Advance | None,
) -> dict[str, Any]:
    """Time to the first token, to each length asked for, and from token to token."""
    warmup, longest = 1, max(effort.new_tokens)
    clocks: dict[str, list[list[float]]] = {name: [] for name in models}
    calls = {n: _answering(one, inputs, longest, clocks[n]) for n, one in models.items()}
    interleaved(calls, effort.rounds, warmup, advance)
    bare, mine = (clocks[name][warmup:] for name in ("bare", list(models)[-1]))
    found: dict[str, Any] = {
        "ttft_s": _spread(at[0] for at in mine),
        "decode_s_per_token": None,
        "end_to_end_s": {str(n): _spread(at[n - 1] for at in mine) for n in effort.new_tokens},
    }
    if longest > 1:
        found["decode_s_per_token"] = _spread((at[-1] - at[0]) / (longest - 1) for at in mine)
    if len(models) > 1:
        both = list(zip(mine, bare, strict=True))
        found["end_to_end_to_bare"] = {
            str(n): _spread(a[n - 1] / b[n - 1] for a, b in both) for n in effort.new_tokens
        }
    return found


def _answering(
    model: nn.Module, inputs: Mapping[str, Tensor], new_tokens: int, found: list[list[float]]
) -> Callable[[], Any]:
    """A `generate` call that adds to `found` when each token was handed over, in seconds from the call."""
    length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}

    def call() -> None:
        clock = Ticks()
        model.generate(**inputs, **length, do_sample=False, streamer=clock)
        found.append(
            [at - clock.start for at in clock.at[1:]]
        )  # before the tokens comes the prompt

    return call


class Ticks:
    """A streamer that only looks at the clock."""

    def __init__(self):
        self.start = time.perf_counter()
        self.at: list[float] = []

    def put(self, value: Tensor) -> None:
        """A token, which a GPU has to have finished to be here."""
        self.at.append(time.perf_counter())

    def end(self) -> None:
        """Nothing left to do."""


def _spread(values: Any) -> dict[str, Any]:
    return asdict(Spread.of(list(values)))
