"""Accuracy against tokens: batched, deterministic, resumable runs, and a report of them."""

from foveate.evaluate.prompts import encode, prompt
from foveate.evaluate.replies import Reply, replies

__all__ = ["Reply", "encode", "prompt", "replies"]
