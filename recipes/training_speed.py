"""Where the time of a training step goes: how much of it is neither forward, backward nor optimizer.

python recipes/training_speed.py [--out results/training.json] [--recipe patchqa] [--steps 20]

The recipe's first steps, by the trainer that `foveate train` runs. Hooks of torch's own say when the model's
forward, the backward pass and the optimizer begin and end. A step goes from the end of the one before to its
own, so that waiting for its data is in it: PatchQA's scenes are painted when they are asked for, which a
process of its own does meanwhile. How a step with a method compares to one on short prompts is told by
`foveate bench --training`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from foveate.bench.clock import Spread, load
from foveate.keeping.provenance import dumps, record, write
from foveate.train import recipes, run

ROOT = Path(__file__).parents[1]
WARMUP = 2  # steps


class Timeline(TrainerCallback):
    """What was going on when, step by step: seconds of "data", "forward", "backward", "optimizer", "rest"."""

    def __init__(self):
        self.steps: list[dict[str, float]] = []
        self.spent: Counter[str] = Counter()
        self.last = self.backward = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hooks on the model, its parameters and the optimizer."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        model.register_forward_pre_hook(lambda *_: self.mark("rest"))
        model.register_forward_hook(self.answered)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self.learnt)
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's, of torch's
        optimizer.register_step_pre_hook(lambda *_: self.mark("rest"))
        optimizer.register_step_post_hook(lambda *_: self.mark("optimizer"))
        self.last = time.perf_counter()

    def mark(self, what: str) -> None:
        """All since the last mark was this."""
        now = time.perf_counter()
        self.spent[what] += now - self.last
        self.last = now

    def answered(self, model: Any, args: tuple, output: Any) -> None:
        """The forward ends; the gradient of its loss is the first of the backward pass."""
        self.mark("forward")
        output.loss.register_hook(lambda _: self.mark("rest"))

    def learnt(self, parameter: Any) -> None:
        """A gradient is there; the last one ends the backward pass."""
        self.mark("backward")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The batches of the step are there."""
        self.mark("data")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is over."""
        self.mark("rest")
        self.steps.append(dict(self.spent))
        self.spent.clear()


def told(steps: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Of each part its share of the steps; and of all that is none of the three, "outside"."""
    names = ("data", "forward", "backward", "optimizer", "rest")
    shares = {name: [step.get(name, 0.0) / sum(step.values()) for step in steps] for name in names}
    shares["outside"] = [a + b for a, b in zip(shares["data"], shares["rest"], strict=True)]
    seconds = Spread.of([sum(step.values()) for step in steps])
    spreads = {name: asdict(Spread.of(some)) for name, some in shares.items()}
    return {"step_s": asdict(seconds), "shares": spreads}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "training.json")
    parser.add_argument("--recipe", default="patchqa")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, default=1, help="processes that read the data")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    recipe, before = recipes.RECIPES[options.recipe](), load()
    batch = options.batch or recipe.batch
    card = replace(
        recipe,
        batch=batch,
        workers=options.workers,
        micro_batch=min(recipe.micro_batch, batch),
        steps=WARMUP + options.steps,
        save_every=WARMUP + options.steps,
    )
    timeline = Timeline()
    with tempfile.TemporaryDirectory() as folder:
        run(card, Path(folder) / "run", callbacks=[timeline])
    found = told(timeline.steps[WARMUP:])
    about = {"recipe": options.recipe, "batch": card.batch, "workers": card.workers}
    about |= {"steps": options.steps, "load": before}
    write(options.out, dumps({**record(seed=card.seed), **about, **found}))
    for name, spread in found["shares"].items():
        print(
            f"{name}: {100 * spread['median']:.1f} % of a step ({found['step_s']['median']:.2f} s)"
        )


if __name__ == "__main__":
    main()
