"""The state of a training run: what a checkpoint holds, and which optimizer moves what."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from losses import Teacher
from muon import Muon
from torch import nn
from transformers import LlavaForConditionalGeneration

from foveate.patchqa import KINDS

RATE = {"see": 2e-3, "answer": 3e-3}
VISION_SHARE = {"see": 1.0, "answer": 0.3}  # of the stage's rate
FIRST_WEIGHTS = {"count": 3, "side": 4, "direction": 3, "place": 2, "exists": 2, "sign": 2}
MODULES = ("model", "teacher")


@dataclass
class Run:
    """A run that can be saved at any step and continued."""

    model: LlavaForConditionalGeneration
    teacher: Teacher
    stage: str = "see"
    step: int = 0
    scenes: int = 0
    stage_start: float = 0.0  # seconds since the epoch
    stage_step: int = 0
    weights: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 1) | FIRST_WEIGHTS)
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the checkpoint; a reader sees the old file or the new one, never half of one."""
        state = vars(self) | {name: getattr(self, name).state_dict() for name in MODULES}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name in MODULES:
            getattr(self, name).load_state_dict(state.pop(name))
        saved = state.pop("optimizers")
        vars(self).update(state)
        self.optimizers = optimizers(self)
        for optimizer, its_state in zip(self.optimizers, saved, strict=True):
            optimizer.load_state_dict(its_state)

    def enter(self, stage: str, now: float) -> None:
        """Begin a stage with fresh optimizers."""
        self.stage, self.stage_start, self.stage_step = stage, now, 0
        self.optimizers = optimizers(self)


def optimizers(run: Run) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for embeddings, norms and the teacher."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    named = [*run.model.named_parameters(), *run.teacher.named_parameters("teacher")]
    for name, weight in named:
        vision = "vision_tower" in name or "teacher" in name
        if run.stage == "see" and not vision:
            continue
        matrix = weight.dim() == 2 and "embed" not in name and "teacher" not in name
        groups.setdefault((matrix, vision), []).append(weight)
    parts = {True: [], False: []}
    for (matrix, vision), weights in groups.items():
        share = VISION_SHARE[run.stage] if vision else 1.0
        parts[matrix].append({"params": weights, "share": share})
    rate = RATE[run.stage]
    adam = torch.optim.AdamW(parts[False], rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    return [Muon(parts[True], rate), adam]
