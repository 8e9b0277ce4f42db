"""A run: a recipe, its data and its model become a trained model; killed at any moment, it goes on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from foveate.core.compressor import Compressor
from foveate.core.ops import LARGEST
from foveate.hosts import traits
from foveate.hosts.attach import warm_start
from foveate.keeping.held import held
from foveate.keeping.provenance import filling, record
from foveate.train import checkpoints, left_out, sets
from foveate.train.curve import curve
from foveate.train.data import Collator, by_question
from foveate.train.data.questions import several
from foveate.train.model import load, refuse_trained
from foveate.train.parts import adapted, freeze, learning_rates, named, shrink
from foveate.train.progress import ProgressCallback
from foveate.train.recipe import Recipe
from foveate.train.trainer import VisualTrainer, arguments, ordered, warmup

READS = frozenset({"text", "prompt_attention", "words"})  # needs that the user's words answer
Advance = Callable[[int, int, str], None]  # steps done, steps in all, what is going on


def run(
    recipe: Recipe,
    out: Path,
    data: Any = None,
    validation: Any = None,
    resume: bool = False,
    device: str = "auto",
    model: str | None = None,
    advance: Advance = lambda step, steps, now: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train as a recipe says and leave model, processor, loss curve and training.json in a folder.

    data and validation take the place of the recipe's files: data sets of `Record`, iterable ones if the
    recipe says how many steps. Order 'grouped' wants of them `has_images`, a bool for each record, and
    `questions`, how many each asks, saves reading them all for `split`. model is where the recipe's model
    lies here. resume goes on from the last whole checkpoint in the folder, or begins. advance hears of
    every step, callbacks of all that transformers' Trainer tells. Started by torchrun or accelerate, it
    trains on all their devices.

    Raises ValueError for a folder that holds another run and for whatever the recipe asks that the model
    does not have, DataError with line numbers for data that is not in order, DivergedError if the loss
    becomes no number, HeldError if another process trains in this folder, and ImportError for packages
    that are not installed.
    """
    out = Path(out)
    _want_packages(recipe)
    with held(out if os.environ.get("RANK", "0") == "0" else None, "training"):
        if resume and (done := checkpoints.result(out, recipe.as_dict())) is not None:
            return done
        checkpoints.refuse(recipe.as_dict(), out, resume)
        whole = sets.opened(recipe, data, validation)
        return _trained(recipe, out, whole, device, model, advance, callbacks)


def _trained(
    recipe: Recipe,
    out: Path,
    whole: sets.Sets,
    device: str,
    model: str | None,
    advance: Advance,
    callbacks: Sequence[TrainerCallback],
) -> dict[str, Any]:
    """Train in a folder that was found to be this run's or new."""
    data, validation = map(by_question, whole) if recipe.split else whole
    steps = steps_of(recipe, data)
    settings = _settings(recipe, out, device, validation is not None, steps)
    begun, whole, gone = _begun(recipe, settings, out, whole, partial(advance, 0, steps))
    if recipe.skip:
        data, validation = map(by_question, whole) if recipe.split else whole
        settings.max_steps = steps = steps_of(recipe, data)
        settings.warmup_steps = warmup(recipe, steps)
    if settings.process_index == 0 and (counts := _counts(whole[0], data)):
        advance(0, steps, "{records:,} records, {rows:,} rows".format(**counts))
    trainer = _trainer(recipe, settings, data, validation, begun, model)
    for callback in (Watch(advance), *callbacks):
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(begun) if begun else None)
    skipped = {"skipped": left_out.told(gone)} if recipe.skip else {}
    return _finish(trainer, recipe, out, _counts(whole[0], data) | skipped)


def _begun(
    recipe: Recipe, settings: Any, out: Path, whole: sets.Sets, advance: Callable[[str], None]
) -> tuple[Path | None, sets.Sets, left_out.Problems]:
    """The checkpoint to go on from, the sets as they are trained on, and what is left out of them.

    The main process opens the folder and looks through the data; all obey.
    """
    from accelerate.utils import broadcast_object_list

    gone: left_out.Problems = []
    with settings.main_process_first(local=False):
        if settings.process_index == 0:
            begun = checkpoints.open_folder(recipe.as_dict(), out)
            gone = sets.checked(recipe, out, begun is None, whole, advance)
        else:
            begun = checkpoints.newest(out)
    if recipe.skip:
        (gone,) = broadcast_object_list([gone])
        whole = sets.without(whole, gone)
    return begun, whole, gone


def _counts(whole: Any, data: Any) -> dict[str, int]:
    """Records as the data have them and rows as they are learnt; nothing of data without a length."""
    return {"records": len(whole), "rows": len(data)} if hasattr(data, "__len__") else {}


def _settings(recipe: Recipe, out: Path, device: str, evaluates: bool, steps: int) -> Any:
    """What transformers' Trainer wants to know. Raises ValueError for devices that cannot be had so."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    world, kind = int(os.environ.get("WORLD_SIZE", "1")), torch.device(device)
    if kind.type == "cuda" and kind.index:
        raise ValueError(f"device={device!r}: want cuda, and say which with CUDA_VISIBLE_DEVICES")
    if recipe.fsdp and world > 1 and kind.type != "cuda":
        raise ValueError(
            f"fsdp=True on {world} processes of {device}: accelerate shards over GPUs only"
        )
    settings = arguments(recipe, out, device, world, evaluates, steps)
    if world == 1 and settings.n_gpu > 1:
        settings._n_gpu = (
            1  # one process is one device: nn.DataParallel's copies would lose the compressor
        )
    return settings


def steps_of(recipe: Recipe, data: Any) -> int:
    """Optimizer steps of a run.

    Raises ValueError for more than LARGEST, and for data without a length when only epochs are given.
    """
    order = ordered(recipe, data)
    if recipe.steps is not None:
        return recipe.steps
    if order is None:
        raise ValueError(f"steps=None, epochs={recipe.epochs}: data without a length wants steps")
    steps = max(1, round(len(order) // recipe.batch * recipe.epochs))
    if steps > LARGEST:
        raise ValueError(f"epochs={recipe.epochs}: {steps:,} steps, want at most {LARGEST:,}")
    return steps


def _want_packages(recipe: Recipe) -> None:
    """Raise ImportError for a package that this recipe takes and that is not installed."""
    extra = "'foveate[train]', in a checkout '.[train]'"
    for wanted, packages, source in [
        (True, ("accelerate",), extra),
        (recipe.lora is not None, ("peft",), extra),
        (recipe.tensorboard, ("tensorboard", "tensorboardX"), "tensorboard"),
        (recipe.deepspeed is not None, ("deepspeed",), "deepspeed"),
    ]:
        if wanted and not any(map(find_spec, packages)):
            raise ImportError(f"{recipe.name} trains with {packages[0]}: pip install {source}")


def _trainer(
    recipe: Recipe, settings: Any, data: Any, validation: Any, begun: Path | None, model: str | None
) -> VisualTrainer:
    set_seed(recipe.seed)
    # The trainer puts adapters and shards in place; of whole models it would leave most weights new.
    whole = begun is not None and any(begun.glob("model*.safetensors"))
    if begun is None and recipe.warm_start:
        refuse_trained(recipe, model)
    model, processor = load(recipe, begun if whole else model)
    method = traits.base_of(model).visual_compressor
    if begun is None:
        _beginning(model, recipe)
    if recipe.lora is not None:
        model = adapted(model, recipe.lora, recipe.trains)
    rates = freeze(model, recipe.trains)
    model.config.get_text_config().use_cache = False  # caches of whole batches, for nothing
    reading = _reading(method, recipe, data, settings.process_index == 0)
    collator = Collator(processor, recipe.max_length, recipe.template, reading=reading)
    return VisualTrainer(
        recipe,
        rates,
        whole,
        model=model,
        args=settings,
        train_dataset=data,
        eval_dataset=validation,
        data_collator=collator,
        processing_class=processor,
        callbacks=[ProgressCallback()],
    )


def _reading(method: Compressor, recipe: Recipe, data: Any, main: bool) -> bool:
    """Whether to look, batch by batch, for records that ask a method several questions at once.

    Data that know theirs are warned of here, by the main process.
    """
    if recipe.split or not any(READS & part.needs for part in method.every()):
        return False
    if (asked := getattr(data, "questions", None)) is None:
        return True
    many = sum(n > 1 for n in asked)
    if many and main:
        warnings.warn(several(f"{many:,} of {len(asked):,} records ask several questions"))
    return False


def _beginning(model: Any, recipe: Recipe) -> None:
    """The weights that training begins with.

    Shrunk, they are the same whatever learns and whatever the seed; a compressor that begins as the
    projector does so after it.
    """
    if recipe.shrink < 1:
        names = [name for part in ("projector", "language") for name in named(model, part)]
        set_seed(0)
        shrink(model, recipe.shrink, [*names, *learning_rates(model, recipe.trains)])
    if recipe.warm_start:
        warm_start(model)


def _finish(
    trainer: VisualTrainer, recipe: Recipe, out: Path, counts: dict[str, Any]
) -> dict[str, Any]:
    """Save what was learnt; training.json comes last, so that it stands for all the rest."""
    trainer.model.config.get_text_config().use_cache = True
    made, main = out / "model.tmp", trainer.is_world_process_zero()
    with filling(made):
        if recipe.lora is not None:
            if main:
                trainer.model.save_pretrained(made / "adapter")
            trainer.model = trainer.model.merge_and_unload()
        trainer.save_model(str(made))
    trainer.accelerator.wait_for_everyone()
    history = trainer.state.log_history
    losses = [entry for entry in history if "loss" in entry]
    document = {
        "recipe": recipe.as_dict(),
        **counts,
        "steps": trainer.state.global_step,
        "seconds": sum(entry["seconds"] for entry in losses),
        "cpu_seconds": sum(entry["cpu_seconds"] for entry in losses),
        "processes": trainer.args.world_size,
        "circumstances": record(recipe.seed, trainer.args.device),
        "history": history,
    }
    if main:
        for kind in ("png", "svg", "pdf"):
            curve(history, out / f"loss.{kind}", recipe.name)
        document = checkpoints.finish(document, made, out)
    return document


class Watch(TrainerCallback):
    """Tells whoever waits how far training is."""

    def __init__(self, advance: Advance):
        self.advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any):
        """Where it begins, or goes on."""
        if state.is_world_process_zero:
            self.advance(state.global_step, state.max_steps, "begins")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any):
        """The loss so far, and how much of it compressors added."""
        if state.is_world_process_zero and "loss" in (logs or {}):
            added = f", {logs['penalty']:.4f} of it penalty" if "penalty" in logs else ""
            self.advance(state.global_step, state.max_steps, f"loss {logs['loss']:.4f}{added}")
