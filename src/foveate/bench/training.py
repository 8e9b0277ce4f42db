"""What a schedule costs over training: forward MACs of a prompt, and its compression, stage by stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from foveate.bench.cells import Subject
from foveate.core.compressor import Compressor


@dataclass(frozen=True)
class StageCost:
    """One stage as if it acted throughout. compression: visual tokens to each equivalent token."""

    compressor: str
    share: float
    macs: int
    equivalent_tokens: float
    compression: float


@dataclass(frozen=True)
class TrainingCost:
    """The stages, and means over training.

    macs               of one prompt's forward pass; backward costs twice that where everything learns
    bare_macs          of the uncompressed model
    equivalent_tokens  visual tokens of a layer, averaged over layers and training
    compression        visual tokens of the prompt to each of those: the ratio of the means
    """

    stages: tuple[StageCost, ...]
    macs: float
    bare_macs: int
    equivalent_tokens: float
    compression: float

    @property
    def to_bare(self) -> float:
        """MACs in a ratio to those of the uncompressed model."""
        return self.macs / self.bare_macs

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the ratio."""
        return {**asdict(self), "to_bare": self.to_bare}


def training_cost(subject: Subject, method: Compressor, steps: int = 1200) -> TrainingCost:
    """What training with a method costs per prompt, `method.at(progress)` acting at each of the steps.

    A method without a schedule is one stage. MACs are counted as everywhere in the benchmark, the head
    for one position. The compression over training is that of LLaVolta's table (Chen et al. 2024,
    arXiv:2406.20092), visual tokens over the mean of equivalent tokens: the paper's stages give 163,
    161 and 235 %, where the mean of their ratios would be 245, 242 and 391 %.

    steps: of the run; 1200 split evenly among up to six stages. Raises ValueError below 1, and as
    `Subject.counts` does.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: want at least 1")
    bare = subject.counts(None)
    turns = Counter(method.at(step / steps) for step in range(steps))
    stages = tuple(_stage(subject, stage, n / steps) for stage, n in turns.items())
    tokens = sum(stage.share * stage.equivalent_tokens for stage in stages)
    return TrainingCost(
        stages=stages,
        macs=sum(stage.share * stage.macs for stage in stages),
        bare_macs=bare["macs"]["total"],
        equivalent_tokens=tokens,
        compression=bare["equivalent_tokens"] / tokens,
    )


def _stage(subject: Subject, stage: Compressor, share: float) -> StageCost:
    found = subject.counts(stage)
    return StageCost(
        compressor=repr(stage),
        share=share,
        macs=found["macs"]["total"],
        equivalent_tokens=found["equivalent_tokens"],
        compression=found["compression"],
    )
