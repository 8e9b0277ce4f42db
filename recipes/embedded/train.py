"""Train the embedded model from nothing: torchrun --nproc-per-node 2 recipes/embedded/train.py

One process to a core, each with its own scenes; they meet once a step to average gradients.

Stage "see": the vision tower alone learns what every patch shows. Stage "answer": everything
learns to answer, the patches still watched. The rates follow the clock, so a run ends when told.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from batches import IGNORE, Batch, make
from forward import read, see
from losses import Teacher
from model import build
from processor import build_tokenizer
from run import RATE, Run
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from foveate.patchqa import KINDS, PatchQA

SEE = torch.compile(see, dynamic=False)
READ = torch.compile(read, dynamic=False)
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
WATCH = 0.3  # weight of the patch and scene losses beside the answers
SCENES = {"see": 16, "answer": 8}  # to a process and step
QUESTIONS = 14  # to a scene
WARM_UP = 100  # steps
FEW = (2, 3)  # objects in the first part of stage "answer": relations are learnt between few
FEW_UNTIL = 0.12
REPORT, SAVE = 180, 300  # seconds
# glibc hands large tensors back to the system after every step, and page faults then dominate.
HEAP = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}


def train(run: Run, out: Path, see_minutes: float, log: TextIO) -> None:
    """Both stages, until the time written in `end.txt` beside the checkpoint."""
    tokenizer = build_tokenizer()
    held_out = {stage: validation(size, tokenizer) for stage, size in SCENES.items()}
    reported = saved = time.time()
    mean = 0.0
    while True:
        now, end = agreed(time.time(), float((out.parent / "end.txt").read_text()))
        progress = (now - run.stage_start) / stage_length(run, see_minutes, end)
        if now >= end:
            break
        if progress >= 1:
            save(run, out.with_name("seen.pt"))
            run.enter("answer", now)
            continue
        batch = draw(run, progress, tokenizer)
        mean += 0.02 * (update(run, batch, rate(run.stage_step, progress)) - mean)
        run.step, run.stage_step = run.step + 1, run.stage_step + 1
        if now - reported > REPORT:
            scores = validate(run, held_out[run.stage])
            note(log, run, scores | {"progress": round(progress, 3), "loss": round(mean, 3)})
            run.weights = harder(scores) if run.stage == "answer" else run.weights
            reported = now
        if now - saved > SAVE:
            save(run, out)
            saved = now
    save(run, out)
    note(log, run, validate(run, held_out[run.stage]) | {"end": True})


def agreed(*numbers: float) -> list[float]:
    """The first process's numbers, for all."""
    shared = torch.tensor(numbers, dtype=torch.float64)
    dist.broadcast(shared, 0)
    return shared.tolist()


def save(run: Run, path: Path) -> None:
    """Let the first process write the checkpoint."""
    if RANK == 0:
        run.save(path)


def stage_length(run: Run, see_minutes: float, end: float) -> float:
    """Seconds this stage takes from its start."""
    rest = max(end - run.stage_start, 1)
    return min(60 * see_minutes, rest) if run.stage == "see" else rest


def draw(run: Run, progress: float, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """This process's next training scenes."""
    few = run.stage == "answer" and progress < FEW_UNTIL
    objects, size = FEW if few else (2, 6), SCENES[run.stage]
    task = PatchQA("train", 1, objects=objects, questions=QUESTIONS, weights=run.weights)
    mine = run.scenes + RANK * size
    run.scenes += WORLD * size
    return make(task, range(mine, mine + size), tokenizer)


def validation(size: int, tokenizer: PreTrainedTokenizerFast) -> list[Batch]:
    """This process's share of 320 scenes of the validation split."""
    task = PatchQA("val", seed=7, questions=QUESTIONS)
    starts = range(RANK * size, 320, WORLD * size)
    return [make(task, range(start, start + size), tokenizer) for start in starts]


def losses(run: Run, batch: Batch, answer: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a stage and what there is to report."""
    first, late, token = SEE(run.model, batch.pixels)
    watched, right = run.teacher(late, token, batch)
    if not answer:
        return watched, right
    hidden, middle = READ(run.model, first, late, batch.start, batch.ids)
    named, right["named"] = run.teacher.named(middle, batch)
    supervised = batch.targets != IGNORE
    logits = run.model.lm_head(hidden[supervised])
    answered = F.cross_entropy(logits, batch.targets[supervised])
    hit = torch.ones_like(supervised)
    hit[supervised] = logits.argmax(dim=-1) == batch.targets[supervised]
    return answered + WATCH * (watched + named), right | {
        "hit": hit.all(dim=-1),
        "answers": answered,
    }


def update(run: Run, batch: Batch, factor: float) -> float:
    """One optimizer step; returns the loss."""
    loss, _ = losses(run, batch, run.stage == "answer")
    loss.backward()
    weights = [w for o in run.optimizers for group in o.param_groups for w in group["params"]]
    average([w.grad for w in weights if w.grad is not None])
    size = nn.utils.clip_grad_norm_(weights, 1.0)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = RATE[run.stage] * group["share"] * factor
        if torch.isfinite(size):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def average(grads: list[Tensor]) -> None:
    """Average over the processes, in place."""
    together = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(together)
    parts = together.div_(WORLD).split([grad.numel() for grad in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))


def rate(step: int, progress: float) -> float:
    """Warm-up, a plateau, and a straight line to nothing over the second half."""
    return min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.0, (1 - progress) * 2))


def validate(run: Run, batches: list[Batch]) -> dict[str, float]:
    """Share of questions answered right, by kind, on scenes of the validation split.

    With gradients on: without, everything would be compiled a second time.
    """
    totals: dict[str, list[float]] = {}
    for batch in batches:
        _, right = losses(run, batch, run.stage == "answer")
        hit = right.pop("hit", None)
        for name, value in right.items():
            totals.setdefault(name, []).append(float(value.detach()))
        for number, kind in enumerate(KINDS):
            if hit is not None:
                totals.setdefault(f"?{kind}", []).extend(hit[batch.kinds == number].tolist())
    shares = [None] * WORLD
    dist.all_gather_object(shares, totals)
    totals = {name: [x for share in shares for x in share[name]] for name in totals}
    scores = {name: sum(values) / max(len(values), 1) for name, values in totals.items()}
    if run.stage == "answer":
        scores["?overall"] = sum(scores[f"?{kind}"] for kind in KINDS) / len(KINDS)
    return {name: round(score, 4) for name, score in scores.items()}


def harder(scores: dict[str, float]) -> dict[str, int]:
    """Ask more of what is answered worst."""
    return {kind: 2 + round(30 * (1 - scores[f"?{kind}"])) for kind in KINDS}


def note(log: TextIO, run: Run, scores: dict[str, float]) -> None:
    """One line of the log, from the first process."""
    if RANK > 0:
        return
    where = {"time": round(time.time()), "stage": run.stage, "step": run.step, "scenes": run.scenes}
    log.write(json.dumps(where | scores) + "\n")
    log.flush()


def main() -> None:
    """Start or resume."""
    if not os.environ.keys() >= HEAP.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | HEAP)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=105, help="until the end, from now")
    parser.add_argument("--see-minutes", type=float, default=12)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/embedded.pt"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(build(build_tokenizer()), Teacher())
    if options.resume:
        run.load(options.out)
    else:
        run.enter("see", *agreed(time.time()))
        # Edit this file to end earlier or later: the schedule follows.
        (options.out.parent / "end.txt").write_text(str(time.time() + 60 * options.minutes))
    with options.out.with_suffix(".jsonl").open("a") as log:
        train(run, options.out, options.see_minutes, log)


if __name__ == "__main__":
    main()
