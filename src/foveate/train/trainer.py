"""transformers' Trainer with learning rates by part, batches of one modality, and a clock."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from foveate.hosts import traits
from foveate.hosts.learnt import head_on_answers
from foveate.keeping.provenance import filling
from foveate.train import checkpoints, manifest
from foveate.train.data import Grouped, Shuffled
from foveate.train.distill import Distilled, Weights
from foveate.train.parts import blocks_of, grounded, groups
from foveate.train.penalty import Apart
from foveate.train.recipe import Recipe


def arguments(
    recipe: Recipe, out: Path, device: str, world: int, evaluates: bool, steps: int
) -> TrainingArguments:
    """What transformers' Trainer wants to know of a recipe that runs on `world` devices for `steps` steps."""
    cuda = device.startswith("cuda")
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=recipe.micro_batch,
        per_device_eval_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.accumulate(world),
        max_steps=steps,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=warmup(recipe, steps),
        learning_rate=max(recipe.trains.values()),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        bf16=recipe.bf16,
        tf32=True if cuda else None,
        **_checkpointing(recipe.checkpointing),
        save_strategy="steps",
        save_steps=recipe.save_every,
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,  # a loss that is no number is to be seen
        eval_strategy="steps" if evaluates else "no",
        eval_steps=recipe.evaluate_every if evaluates else None,
        prediction_loss_only=True,
        report_to=["tensorboard"] if recipe.tensorboard else [],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=recipe.workers,
        # Batches cannot be cut after they are made: images are no rows of text.
        accelerator_config={"dispatch_batches": False, "split_batches": False},
        dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=True,  # a batch of text alone leaves the projector out
        ddp_timeout=24 * 3600,  # the others wait while the first checks the data
        **({"fsdp": True, "fsdp_config": {"version": 2}} if recipe.fsdp and world > 1 else {}),
        deepspeed=recipe.deepspeed,
        use_cpu=not cuda,
        seed=recipe.seed,
    )


def warmup(recipe: Recipe, steps: int) -> int:
    """Steps until the learning rates are whole."""
    return round(recipe.warmup * steps)


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """Recomputing activations in the backward pass, under the name that this transformers has for it."""
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    name = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if n in known)
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}} if wanted else {}


class DivergedError(ArithmeticError):
    """The loss is no number any more, and with it the weights: going on is in vain."""


class VisualTrainer(Trainer):
    """A Trainer for one recipe: its own are how fast each parameter learns, and the order of the data."""

    def __init__(self, recipe: Recipe, rates: Mapping[str, float], whole: bool, **kwargs: Any):
        self.recipe, self.rates, self.whole = recipe, rates, whole
        self.clock, self.order = Clock(), None
        super().__init__(**kwargs)
        whole, gather = traits.unwrapped(self.model), self.accelerator.gather
        self.apart = Apart(whole, gather)
        weights = Weights(recipe.distill, recipe.full, recipe.attend)
        self.distilled = Distilled(whole, weights, gather, self.progress)
        if self.is_fsdp_enabled:
            # Said by name: of what the model's class would say, some is in no model (CLIP's text layers).
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = blocks_of(self.model)
        self.add_callback(self.clock)
        self.add_callback(Epochs(self))
        self.remove_callback(PrinterCallback)  # stdout is for answers

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and tell apart meanwhile what compressors add to the loss."""
        whole = traits.unwrapped(self.model)
        with self.apart, self.distilled, grounded(whole), head_on_answers(whole):
            return super().train(*args, **kwargs)

    def progress(self) -> float:
        """How far training is, 0 to 1."""
        return self.state.global_step / self.state.max_steps

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer, a parameter group for each learning rate."""
        if self.optimizer is None:
            model = self.model if model is None else model
            decaying = set(self.get_decay_parameter_names(model))
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            some = groups(model, self.rates, decaying, self.recipe.weight_decay)
            self.optimizer = kind(some, **settings)
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Adapters and shards only: a whole model was loaded from the checkpoint, under its own names."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not self.whole:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of a step; none behind the last one, whose checkpoint a resume begins from too."""
        over = self.state.global_step >= self.state.max_steps
        return ([], None) if over else super().get_batch_samples(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint with its manifest, once every process wrote its own; then the oldest gives way."""
        out, main = Path(self.args.output_dir), self.is_world_process_zero()
        folder = out / f"checkpoint-{self.state.global_step}"
        if main:
            manifest.begin(folder)
        with filling(folder):
            super()._save_checkpoint(*args, **kwargs)
        self.accelerator.wait_for_everyone()
        if main:
            manifest.finish(folder)
            checkpoints.rotate(out, self.recipe.keep_checkpoints)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data = self.train_dataset if train_dataset is None else train_dataset
        self.order = ordered(self.recipe, data)
        return self.order

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and leave no trace in the random numbers that dropout draws."""
        cuda = self.args.device.type == "cuda"
        with torch.random.fork_rng([self.args.device] if cuda else []):
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the seconds since the last log, and the loss in its terms where compressors add to it.

        Raises DivergedError where the loss is no number.
        """
        if "loss" in logs:
            terms = self.distilled.read(logs["loss"])
            terms |= self.apart.read(terms.pop("loss", logs["loss"]), self.args.device)
            logs = {**logs, **terms, **self.clock.read()}
        super().log(logs, start_time)
        if not math.isfinite(logs.get("loss", 0.0)):
            raise DivergedError(
                f"step {self.state.global_step} of {self.state.max_steps}: the loss is {logs['loss']}; want "
                "smaller learning rates or a longer warmup"
            )


def ordered(recipe: Recipe, data: Any) -> Grouped | Shuffled | None:
    """The order in which a recipe goes through its data; None for data without a length.

    Raises ValueError for data that should be grouped and do not say which records have images.
    """
    if not hasattr(data, "__len__"):
        return None
    if not len(data):
        raise ValueError(f"{recipe.data}: no records to train on")
    if recipe.order != "grouped":
        return Shuffled(len(data), recipe.batch, recipe.seed, recipe.order == "shuffled")
    if not hasattr(data, "has_images"):
        raise ValueError(
            "order='grouped': data without has_images cannot be grouped; want 'shuffled'"
        )
    return Grouped(data.has_images, recipe.batch, recipe.seed)


class Epochs(TrainerCallback):
    """Tells the order which epoch begins: a resume on several ranks wraps it too deep to be reached."""

    def __init__(self, trainer: VisualTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any):
        """Epochs count from 0; a resume may begin in the middle of one."""
        if self.trainer.order is not None:
            self.trainer.order.set_epoch(int(state.epoch or 0))


class Clock(TrainerCallback):
    """Seconds spent in optimizer steps: data loading, evaluations, checkpoints and interruptions apart."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any):
        """The clock runs from here …"""
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any):
        """… to here."""
        self.wall += time.perf_counter()
        self.cpu += time.process_time()

    def read(self) -> dict[str, float]:
        """The seconds since it was last read."""
        seen = {"seconds": self.wall, "cpu_seconds": self.cpu}
        self.wall = self.cpu = 0.0
        return seen
