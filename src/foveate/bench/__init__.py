"""Benchmarks: what compression costs, what it saves, and how far that is from the ideal.

clock   interleaved timings, ratios with bounds, peak memory
limits  ratios to a physically short prompt, and of an idle compressor to the bare model
table   tokens, MACs, times, cache and memory, method by method
"""

from foveate.bench.clock import Ratio, interleaved, peak_bytes, ratio, twin
from foveate.bench.limits import BARS, limits, prefill_ratio
from foveate.bench.reference import reference
from foveate.bench.table import bench, table, ticks

__all__ = [
    "BARS",
    "Ratio",
    "bench",
    "interleaved",
    "limits",
    "peak_bytes",
    "prefill_ratio",
    "ratio",
    "reference",
    "table",
    "ticks",
    "twin",
]
