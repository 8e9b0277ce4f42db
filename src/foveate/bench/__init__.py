"""Benchmarks: what compression costs, what it saves, and how far that is from the ideal.

cells     a model with its prompts, and what of it is measured
configs   models by the name of their public config, and the prompt each is asked
count     tokens per layer, MACs by part, cache bytes; also of models too large to run
clock     interleaved timings, ratios with bounds, peak memory
limits    prompts that never had more tokens, and the ideal they make up
measure   models in turn: prefill, first token, answers, memory
memory    whether a model fits, and a batch beside it
journal   finished cells of a run that may be killed
steps     a training step, beside the bare model's and the short prompt's
show      the tables a terminal shows
table     methods × budgets × batch sizes × image sizes
training  what a schedule costs over training
"""

from foveate.bench.cells import BARE, Cell, Subject, plan
from foveate.bench.clock import Ratio, interleaved, load, peak_bytes, ratio
from foveate.bench.configs import CONFIGS, Named, build, like, showing
from foveate.bench.count import Paper, counts
from foveate.bench.limits import BARS, prefill_ratio
from foveate.bench.measure import Effort, measure
from foveate.bench.memory import fits
from foveate.bench.show import tables
from foveate.bench.table import bench, ticks
from foveate.bench.training import StageCost, TrainingCost, training_cost
from foveate.hosts.twins import twin

__all__ = [
    "BARE",
    "BARS",
    "CONFIGS",
    "Cell",
    "Effort",
    "Named",
    "Paper",
    "Ratio",
    "StageCost",
    "Subject",
    "TrainingCost",
    "bench",
    "build",
    "counts",
    "fits",
    "interleaved",
    "like",
    "load",
    "measure",
    "peak_bytes",
    "plan",
    "prefill_ratio",
    "ratio",
    "showing",
    "tables",
    "ticks",
    "training_cost",
    "twin",
]
