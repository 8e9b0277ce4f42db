"""Accuracy against tokens: batched, deterministic, resumable runs, and a report of them."""

from foveate.evaluate.api import compare, evaluate
from foveate.evaluate.comparison import BARE, comparison
from foveate.evaluate.plans import Loaded, Plan, as_saved, fitting, own, plan, remarks
from foveate.evaluate.prompts import encode, prompt, told
from foveate.evaluate.replies import Reply, replies
from foveate.evaluate.results import Job, fingerprint
from foveate.evaluate.runs import Example, digest, run
from foveate.evaluate.score import exact, mean_interval, scores, wilson
from foveate.evaluate.steps import sizes, steps
from foveate.evaluate.work import Work

__all__ = [
    "BARE",
    "Example",
    "Job",
    "Loaded",
    "Plan",
    "Reply",
    "Work",
    "as_saved",
    "compare",
    "comparison",
    "digest",
    "encode",
    "evaluate",
    "exact",
    "fingerprint",
    "fitting",
    "mean_interval",
    "own",
    "plan",
    "prompt",
    "remarks",
    "replies",
    "run",
    "scores",
    "sizes",
    "steps",
    "told",
    "wilson",
]
