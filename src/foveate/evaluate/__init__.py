"""Accuracy against tokens: batched, deterministic, resumable runs, and a report of them."""

from foveate.chat import prompt
from foveate.evaluate.api import compare, evaluate
from foveate.evaluate.comparison import comparison
from foveate.evaluate.prompts import encode, told
from foveate.evaluate.replies import Reply, replies
from foveate.evaluate.results import Job, fingerprint
from foveate.evaluate.runs import Example, digest, run
from foveate.evaluate.score import exact, mean_interval, scores, wilson
from foveate.evaluate.steps import sizes, steps

__all__ = [
    "Example",
    "Job",
    "Reply",
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
    "told",
    "wilson",
]
