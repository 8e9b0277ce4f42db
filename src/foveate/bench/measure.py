"""One cell of a benchmark, timed: a method at a budget and a batch size, beside the bare model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.clock import Advance, Spread, Timing, interleaved, peak_bytes, ratio
from foveate.bench.connector import connector, tower
from foveate.bench.count import prefill
from foveate.bench.limits import ideal, missing, short_prefill, shortened, weighted
from foveate.bench.steps import training_steps
from foveate.core.compressor import Compressor
from foveate.hosts.attach import compress
from foveate.hosts.twins import twin

BARE, METHOD = "bare", "method"


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    pairs       rounds of prefills: the method, the bare model and the short prompts, in turn
    rounds      rounds of answers: the same in turn; 0 for none
    new_tokens  lengths at which an answer's time is read off
    seconds     about the most that a cell may take, in fewer rounds if need be; None for any time
    training    whether to take training steps as well, as many rounds as of answers
    """

    pairs: int = 30
    rounds: int = 5
    new_tokens: tuple[int, ...] = (1, 16, 128)
    seconds: float | None = None
    training: bool = False


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
    begun, seconds = time.perf_counter(), effort.seconds or math.inf
    models = {BARE: model}
    if method is not None:
        models[METHOD] = compress(twin(model), method)
    half = begun + seconds / 2 if effort.rounds else begun + seconds
    found = prefills(models, inputs, layers, effort.pairs, advance, half)
    if effort.rounds:
        found |= _answers(models, inputs, layers, effort, advance, begun + seconds)
    if effort.training and effort.rounds:
        given = (inputs, method, layers, effort.rounds, advance, begun + seconds)
        found["training"] = training_steps(model, *given)
    return found | _peaks(models, inputs, layers)


def prefills(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Sequence[int],
    pairs: int,
    advance: Advance | None = None,
    until: float = math.inf,
) -> dict[str, Any]:
    """Prefill of the last of the models, and its ratios to the first, "bare", and to the limit.

    Also the connector's share of it. layers: visual columns in each decoder layer; until: as in
    `interleaved`.
    """
    bare, last = models[BARE], list(models)[-1]
    calls: dict[Any, Callable[[], Any]] = {n: prefill(one, inputs) for n, one in models.items()}
    calls |= {n: short_prefill(bare, inputs, n) for n in missing(bare, inputs, layers)}
    calls |= {
        "tower": tower(bare, calls[BARE]),
        "connector": connector(models[last], calls[last]),
    }
    # The tower's and the connector's calls were taken from a prefill, which was a round to warm up with.
    timings = interleaved(calls, pairs, 1, advance, until)
    mine = timings[last]
    found = {
        "prefill_s": asdict(Spread.of([t.wall for t in mine])),
        "prefill_cpu_s": asdict(Spread.of([t.cpu for t in mine])),
        "tower_s": asdict(Spread.of([t.wall for t in timings["tower"]])),
        "connector_s": asdict(Spread.of([t.wall for t in timings["connector"]])),
        "connector_share": asdict(ratio(timings["connector"], mine)),
    }
    if len(models) > 1:
        lengths = {n: timings.get(n, timings[BARE]) for n in layers}
        found["to_bare"] = asdict(ratio(mine, timings[BARE]))
        behind = [_less(timings[name], timings["tower"]) for name in (last, BARE)]
        found["to_bare_behind_tower"] = asdict(ratio(*behind))
        found["to_limit"] = asdict(ratio(mine, ideal(lengths, layers)))
    return found


def _less(whole: Sequence[Timing], part: Sequence[Timing]) -> list[Timing]:
    """Round by round the time without a part of it; at least a nanosecond, whatever the noise."""
    pairs = zip(whole, part, strict=True)
    return [Timing(*(max(a - b, 1e-9) for a, b in zip(*one, strict=True))) for one in pairs]


def _answers(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Sequence[int],
    effort: Effort,
    advance: Advance | None,
    until: float,
) -> dict[str, Any]:
    """Time to the first token, to each length asked for, and from token to token; and their ratios."""
    warmup, bare = 1, models[BARE]
    prompts: dict[Any, tuple[nn.Module, Callable[[], Mapping[str, Tensor]]]] = {
        name: (one, lambda: inputs) for name, one in models.items()
    }
    prompts |= {n: (bare, shortened(bare, inputs, n)) for n in missing(bare, inputs, layers)}
    clocks: dict[Any, list[dict[str, float]]] = {name: [] for name in prompts}
    calls = {
        name: partial(_answer, *prompt, effort.new_tokens, clocks[name])
        for name, prompt in prompts.items()
    }
    interleaved(calls, effort.rounds, warmup, advance, until)
    rounds = {name: _columns(found[warmup:]) for name, found in clocks.items()}
    mine, whole = rounds[list(models)[-1]], rounds[BARE]
    found = _told(mine, effort.new_tokens)
    if len(models) > 1:
        limit = {
            what: weighted({n: rounds.get(n, whole)[what] for n in {*layers}}, layers)
            for what in mine
        }
        found |= _told(_over(mine, whole), effort.new_tokens, "_to_bare")
        found |= _told(_over(mine, limit), effort.new_tokens, "_to_limit")
    return found


Rounds = dict[str, list[float]]  # what was timed of an answer → its value in each round


def _columns(rounds: Iterable[Mapping[str, float]]) -> Rounds:
    rounds = list(rounds)
    return {what: [one[what] for one in rounds] for what in rounds[0]}


def _over(above: Rounds, below: Rounds) -> Rounds:
    """Round by round the ratios."""
    return {what: [a / b for a, b in zip(above[what], below[what], strict=True)] for what in above}


def _told(rounds: Rounds, lengths: Iterable[int], what: str = "_s") -> dict[str, Any]:
    """Medians and bounds of an answer's times or ratios, JSON-ready."""
    spreads = {name: asdict(Spread.of(values)) for name, values in rounds.items()}
    return {
        f"ttft{what}": spreads["1"],
        f"decode{what}" + ("_per_token" if what == "_s" else ""): spreads.get("decode"),
        f"end_to_end{what}": {str(n): spreads[str(n)] for n in lengths},
    }


def _answer(
    model: nn.Module,
    prompt: Callable[[], Mapping[str, Tensor]],
    lengths: Sequence[int],
    found: list[dict[str, float]],
) -> None:
    """Generate, and add to `found` the seconds to the first token, to each length, and for each token."""
    longest = max(lengths)
    only = {"max_new_tokens": longest, "min_new_tokens": longest, "do_sample": False}
    clock = Ticks()
    model.generate(**prompt(), **only, streamer=clock)
    at = [tick - clock.start for tick in clock.at[1:]]  # before the tokens comes the prompt
    some = {str(n): at[n - 1] for n in (1, *lengths)}
    found.append(some | ({"decode": (at[-1] - at[0]) / (longest - 1)} if longest > 1 else {}))


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


def _peaks(
    models: Mapping[str, nn.Module], inputs: Mapping[str, Tensor], layers: Sequence[int]
) -> dict[str, Any]:
    """The most memory of a prefill; in a ratio to the bare model's, and to that of its longest prompt."""
    bare, short = models[BARE], missing(models[BARE], inputs, layers)
    calls = {name: prefill(one, inputs) for name, one in models.items()}
    if len(models) > 1 and len(short) == len({*layers}):  # no layer sees all
        calls["limit"] = short_prefill(bare, inputs, max(short))
    with torch.no_grad():
        peaks = {name: peak_bytes(call, bare.device) for name, call in calls.items()}
    mine = peaks[list(models)[-1]]
    if len(models) == 1:
        return {"peak_bytes": mine}
    return {
        "peak_bytes": mine,
        "peak_to_bare": mine / peaks[BARE],
        "peak_to_limit": mine / peaks.get("limit", peaks[BARE]),
    }
