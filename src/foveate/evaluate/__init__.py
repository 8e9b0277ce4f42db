"""Accuracy against tokens: batched, deterministic, resumable runs, and a report of them."""

from foveate.evaluate.api import compare, evaluate
from foveate.evaluate.comparison import comparison
from foveate.evaluate.prompts import ask, encode, prompt, told
from foveate.evaluate.replies import Reply, replies
from foveate.evaluate.results import Job
from foveate.evaluate.runs import Example, digest, run
from foveate.evaluate.score import bootstrap, mean_interval, scores, wilson
from foveate.evaluate.steps import sizes, steps
from foveate.hosts.whole import fingerprint
from foveate.tasks.metrics import METRICS, Metric, exact
from foveate.tasks.own import Own, Task, task

__all__ = [
    "METRICS",
    "Example",
    "Job",
    "Metric",
    "Own",
    "Reply",
    "Task",
    "ask",
    "bootstrap",
    "compare",
    "comparison",
    "digest",
    "encode",
    "evaluate",
    "exact",
    "fingerprint",
    "mean_interval",
    "prompt",
    "replies",
    "run",
    "scores",
    "sizes",
    "steps",
    "task",
    "told",
    "wilson",
]
