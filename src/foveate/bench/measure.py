"""Models timed in turn: the bare one, compressed ones, and short prompts that are their limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.clock import Advance, Spread, interleaved, peak_bytes, ratio
from foveate.bench.count import prefill
from foveate.bench.limits import ideal, missing, short_prefill, shortened, weighted

FIRST = "bare"  # the model that the others are compared with


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    pairs       rounds of prefills: methods, the bare model and the short prompts, in turn
    rounds      rounds of answers: the same in turn; 0 for none
    new_tokens  lengths at which an answer's time is read off
    seconds     about the most that cells that run in turn may take, in fewer rounds if need be; None for any
    training    whether to take training steps as well, as many rounds as of answers
    """

    pairs: int = 30
    rounds: int = 5
    new_tokens: tuple[int, ...] = (1, 16, 128)
    seconds: float | None = None
    training: bool = False


def measure(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[int]],
    effort: Effort,
    quick: Collection[str] = (),
    advance: Advance | None = None,
) -> dict[str, dict[str, Any]]:
    """Of each model times in seconds for the whole batch, ratios to the first and to the limit, and memory.

    models: the bare one, called FIRST, then compressed ones, on the same weights. layers: visual columns in
    each decoder layer of these. quick: those that are not asked for answers. Everything runs interleaved,
    round by round.
    """
    begun, seconds = time.perf_counter(), effort.seconds or math.inf
    half = begun + seconds / 2 if effort.rounds else begun + seconds
    found = prefills(models, inputs, layers, effort.pairs, advance, half)
    told = [_peaks(models, inputs, layers)]
    if effort.rounds:
        some = {name: model for name, model in models.items() if name not in quick}
        told.append(_answers(some, inputs, layers, effort, advance, begun + seconds))
    for some in told:
        for name, more in some.items():
            found[name] |= more
    return found


def prefills(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[int]],
    pairs: int,
    advance: Advance | None = None,
    until: float = math.inf,
) -> dict[str, dict[str, Any]]:
    """Prefill of each of the models, and its ratios to the first, FIRST, and to the limit.

    layers: visual columns in each decoder layer, of all but the first; until: as in `interleaved`.
    """
    bare = models[FIRST]
    calls: dict[Any, Callable[[], Any]] = {n: prefill(one, inputs) for n, one in models.items()}
    calls |= {n: short_prefill(bare, inputs, n) for n in _short(models, inputs, layers)}
    timings = interleaved(calls, pairs, 1, advance, until)
    found: dict[str, dict[str, Any]] = {}
    for name in models:
        mine = timings[name]
        found[name] = {
            "prefill_s": asdict(Spread.of([t.wall for t in mine])),
            "prefill_cpu_s": asdict(Spread.of([t.cpu for t in mine])),
        }
        if name != FIRST:
            lengths = {n: timings.get(n, timings[FIRST]) for n in layers[name]}
            found[name]["to_bare"] = asdict(ratio(mine, timings[FIRST]))
            found[name]["to_limit"] = asdict(ratio(mine, ideal(lengths, layers[name])))
    return found


def _short(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[int]],
) -> list[int]:
    """The lengths of short prompts that these models are measured by."""
    every = [n for name in models if name != FIRST for n in layers[name]]
    return missing(models[FIRST], inputs, every)


def _answers(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[int]],
    effort: Effort,
    advance: Advance | None,
    until: float,
) -> dict[str, dict[str, Any]]:
    """Time to the first token, to each length asked for, and from token to token; and their ratios."""
    warmup, bare = 1, models[FIRST]
    prompts: dict[Any, tuple[nn.Module, Callable[[], Mapping[str, Tensor]]]] = {
        name: (one, lambda: inputs) for name, one in models.items()
    }
    prompts |= {n: (bare, shortened(bare, inputs, n)) for n in _short(models, inputs, layers)}
    clocks: dict[Any, list[dict[str, float]]] = {name: [] for name in prompts}
    calls = {
        name: partial(_answer, *prompt, effort.new_tokens, clocks[name])
        for name, prompt in prompts.items()
    }
    interleaved(calls, effort.rounds, warmup, advance, until)
    rounds = {name: _columns(found[warmup:]) for name, found in clocks.items()}
    found = {name: _told(rounds[name], effort.new_tokens) for name in models}
    for name in [name for name in models if name != FIRST]:
        mine, whole = rounds[name], rounds[FIRST]
        lengths = {n: rounds.get(n, whole) for n in layers[name]}
        limit = {
            what: weighted({n: one[what] for n, one in lengths.items()}, layers[name])
            for what in mine
        }
        found[name] |= _told(_over(mine, whole), effort.new_tokens, "_to_bare")
        found[name] |= _told(_over(mine, limit), effort.new_tokens, "_to_limit")
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
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[int]],
) -> dict[str, dict[str, Any]]:
    """The most memory of a prefill; in a ratio to the bare model's, and to that of its longest prompt."""
    bare, longest = models[FIRST], {max(layers[name]) for name in models if name != FIRST}
    calls: dict[Any, Callable[[], Any]] = {n: prefill(one, inputs) for n, one in models.items()}
    calls |= {n: short_prefill(bare, inputs, n) for n in missing(bare, inputs, [*longest])}
    with torch.no_grad():
        peaks = {name: peak_bytes(call, bare.device) for name, call in calls.items()}
    found: dict[str, dict[str, Any]] = {}
    for name in models:
        found[name] = {"peak_bytes": peaks[name]}
        if name != FIRST:
            limit = peaks.get(max(layers[name]), peaks[FIRST])
            found[name]["peak_to_bare"] = peaks[name] / peaks[FIRST]
            found[name]["peak_to_limit"] = peaks[name] / limit
    return found
