"""How far training is, told to the compressor at the beginning of every optimizer step."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from foveate.hosts.attach import set_progress


class ProgressCallback(TrainerCallback):
    """Makes schedules and random draws follow a transformers Trainer.

    What it tells is the trainer's own step, which a checkpoint saves and a resume restores: neither
    accumulation nor an evaluation in between moves it.
    """

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any):
        """Step `global_step` of `max_steps` begins."""
        set_progress(model, state.global_step, state.max_steps)
