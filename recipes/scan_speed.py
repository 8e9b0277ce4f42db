"""How fast the selective scan is beside transformers' PyTorch Mamba-1, and what it keeps in memory.

python recipes/scan_speed.py [--out results/scan.json] [--threads 1] [--rounds 3]

All three take turns in one run. Where other programs share the processors, read `cpu_ms`, the time the work
takes without the time it waits, and stay with one thread: a second one that has to wait holds up the first
at every operation, a thousand times a scan. `load` tells how many programs wanted to run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from foveate.keeping.provenance import dumps, record, write
from foveate.statespace.scan import scan

ROOT = Path(__file__).parents[1]
WIDTH, LENGTH, HEAD = 1536, 600, 64
STATES = {"transformers": 16, "mamba1": 16, "ssd": 64}
LENGTHS = (1024, 2048, 4096, 8192, 16384)
TURNS = {"transformers": 1, "mamba1": 10, "ssd": 10}  # of a round


def inputs(name: str, L: int) -> list[Tensor]:
    """x, delta, A, B, C, D of one row, drawn as Mamba's layers begin: steps up to 0.1, decays 1 to S."""
    torch.manual_seed(0)
    S, heads = STATES[name], WIDTH // HEAD
    width = (heads, HEAD) if name == "ssd" else (WIDTH,)
    scalar = -torch.linspace(1, 16, heads)
    A = scalar if name == "ssd" else -torch.arange(1.0, S + 1).repeat(WIDTH, 1)
    found = (
        torch.randn(1, L, *width),
        0.1 * torch.rand(1, L, width[0]),
        A,
        torch.randn(1, L, 1, S),
        torch.randn(1, L, 1, S),
        torch.ones(width[0]),
    )
    return [t.requires_grad_() for t in found]


def fallback(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """transformers' own loop over time, which runs where no kernel is installed."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    return mamba_selective_scan(x.mT, delta.mT, A, B[:, :, 0].mT, C[:, :, 0].mT, D).mT


def method(name: str) -> Callable[..., Tensor]:
    return fallback if name == "transformers" else lambda *args: scan(*args, kind=name)


def once(name: str, args: list[Tensor]) -> dict[str, float]:
    """Milliseconds of one forward and one backward pass: on the clock, and of the processors."""
    run, ones = method(name), torch.ones_like(args[0])
    clock, cpu = time.perf_counter(), time.process_time()
    y = run(*args)
    middle = time.perf_counter()
    torch.autograd.grad(y, args, ones)
    end = time.perf_counter()
    return {
        "forward_ms": 1e3 * (middle - clock),
        "backward_ms": 1e3 * (end - middle),
        "ms": 1e3 * (end - clock),
        "cpu_ms": 1e3 * (time.process_time() - cpu),
    }


def summary(runs: list[dict[str, float]]) -> dict:
    """The median of each, and its lowest and highest."""
    found = {"runs": len(runs)}
    for key in runs[0]:
        values = [run[key] for run in runs]
        middle = statistics.median(values)
        found[key] = [round(v, 3) for v in (middle, min(values), max(values))]
    return found


def speed(threads: int, rounds: int) -> dict:
    """All three in turns, and how many times the medians of ours go into those of transformers."""
    torch.set_num_threads(threads)
    args = {name: inputs(name, LENGTH) for name in STATES}
    runs: dict[str, list] = {name: [] for name in STATES}
    for name in ("mamba1", "ssd"):
        once(name, args[name])
    torch.testing.assert_close(fallback(*args["mamba1"]), method("mamba1")(*args["mamba1"]))
    for k in range(rounds):
        for name, turns in TURNS.items():
            runs[name] += [once(name, args[name]) for _ in range(turns)]
        print(f"{threads} threads, round {k + 1} of {rounds}", file=sys.stderr)
    found = {name: summary(r) for name, r in runs.items()}
    for name in ("mamba1", "ssd"):
        slow = found["transformers"]
        found[name]["times"] = round(slow["ms"][0] / found[name]["ms"][0], 1)
        found[name]["cpu_times"] = round(slow["cpu_ms"][0] / found[name]["cpu_ms"][0], 1)
    return {"load": os.getloadavg()[0], **found}


def saved_bytes(name: str, args: list[Tensor]) -> int:
    """Bytes of the distinct storages that a forward pass keeps for the backward pass, inputs included."""
    kept = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        method(name)(*args)
    return sum(size for size, _ in kept.values())


def footprint(name: str, L: int) -> dict:
    """Of one length, in a process of its own: bytes saved, growth of its largest size, and time."""
    torch.set_num_threads(1)
    once(name, inputs(name, 128))
    args = inputs(name, L)
    before = resident()
    runs = [once(name, args)]
    grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    runs += [once(name, args) for _ in range(4)]
    times = summary(runs)
    return {
        "length": L,
        "x_bytes": args[0].nbytes,
        "saved_bytes": saved_bytes(name, args),
        "grown_bytes": max(0, grown),
        **{key: times[key][0] for key in ("ms", "cpu_ms")},
    }


def resident() -> int:
    """Bytes of this process in memory now (Linux)."""
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])


def lengths() -> dict[str, list[dict]]:
    found: dict[str, list] = {}
    for name in ("mamba1", "ssd"):
        for L in LENGTHS:
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                found.setdefault(name, []).append(alone.apply(footprint, (name, L)))
            print(f"{name} {L}: {found[name][-1]}", file=sys.stderr)
    return found


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "scan.json")
    parser.add_argument("--threads", default="1", help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(given)
    if find_spec("mamba_ssm"):
        raise SystemExit(
            "mamba_ssm is installed: transformers would call it instead of its own loop"
        )
    document = {
        **record(seed=0),
        "threads": options.threads,
        "size": {"rows": 1, "width": WIDTH, "length": LENGTH, "states": STATES, "head": HEAD},
        "columns": "each time: median, lowest, highest; times: transformers' median over ours",
        "lengths": lengths(),
        "speed": {n: speed(int(n), options.rounds) for n in options.threads.split(",")},
    }
    write(options.out, dumps(document))


if __name__ == "__main__":
    main()
