"""Clocks for machines that others use too: interleaved runs, paired ratios, medians with bounds."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Advance = Callable[[int, str], None]
FEWEST = 3  # rounds that bounds can be told of


class Timing(NamedTuple):
    """Seconds on the wall, and seconds of processor time of all threads."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Spread:
    """A median, its one-sided 95 % bounds, and the quartiles around it."""

    median: float
    low: float
    high: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Bounds by order statistics: no assumption on the noise. Below five values they are the range."""
        values, n = sorted(values), len(values)
        # The largest k for which fewer than k of n values fall below the median with p <= 0.05.
        tail, k = 0.0, 0
        while (tail := tail + math.comb(n, k) / 2**n) <= 0.05:
            k += 1
        k = max(k, 1)
        around = statistics.quantiles(values, n=4) if n > 1 else [values[0]] * 3
        middle = statistics.median(values)
        return cls(middle, values[k - 1], values[n - k], (around[0], around[2]))


@dataclass(frozen=True)
class Ratio:
    """How much longer one thing takes than another that ran beside it, over `pairs` rounds."""

    wall: Spread
    cpu: Spread
    pairs: int


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    pairs: int,
    warmup: int = 2,
    advance: Advance | None = None,
    until: float = math.inf,
) -> dict[str, list[Timing]]:
    """Run all calls `pairs` times, in an order that turns: A B, B A, A B, …; a timing per call and round.

    What slows the machine for seconds slows neighbours alike, so compare within a round (`ratio`). until: a
    time of `time.perf_counter()` behind which no round begins, once there are FEWEST.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in calls}
    with quiet():
        for step in range(-warmup, pairs):
            if step >= FEWEST and time.perf_counter() > until:
                break
            gc.collect()
            for name in _turn(list(calls), step):
                taken = timed(calls[name])
                if step >= 0:
                    timings[name].append(taken)
            if advance is not None and step >= 0:
                advance(1, " | ".join(map(str, calls)))
    return timings


def _turn(names: list[str], step: int) -> list[str]:
    """The names from another start in each round, and backwards in every other cycle of rounds."""
    start = step % len(names)
    turned = names[start:] + names[:start]
    return turned[::-1] if step // len(names) % 2 else turned


def timed(call: Callable[[], Any]) -> Timing:
    """How long one call takes, with what it left running on a GPU."""
    settle()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    settle()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def ratio(above: Sequence[Timing], below: Sequence[Timing]) -> Ratio:
    """The ratio round by round. Raises ValueError unless both ran the same number of rounds."""
    pairs = list(zip(above, below, strict=True))
    return Ratio(
        Spread.of([a.wall / b.wall for a, b in pairs]),
        Spread.of([a.cpu / b.cpu for a, b in pairs]),
        len(pairs),
    )


def peak_bytes(call: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most memory of a device that a call holds at once, over what was held before."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with unheard(), torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        result = call()
    # The only place that lists allocations in order; the profiler's public tables sum them by operator.
    events = profiler.profiler.kineto_results.events()
    del result
    held = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak


def load() -> float | None:
    """How many processes ran on this machine in the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@contextmanager
def unheard() -> Iterator[None]:
    """What the profiler's own code writes to stderr, whatever its log level, goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def settle() -> None:
    """Wait until the GPU, if there is one, has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def quiet() -> Iterator[None]:
    """No gradients, and no garbage collection in the middle of a measurement."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_on:
            gc.enable()
