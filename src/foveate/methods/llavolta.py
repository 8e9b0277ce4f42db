"""LLaVolta: train with few visual tokens first and more of them later."""

from __future__ import annotations

from foveate.core.composed import Stages
from foveate.core.compressor import Compressor
from foveate.core.ops import Keep, check_keep
from foveate.core.sizes import scaled
from foveate.core.spec import spoken
from foveate.methods.identity import Identity
from foveate.methods.pool import Pool

# Equal shares of training as (layer of 32, stride); stride 1 is no compression, and the last stage is
# that of inference.
SCHEDULES = {
    "two_stage": ((2, 8), (0, 1)),
    "three_stage_deeper": ((2, 8), (16, 8), (0, 1)),
    "three_stage_wider": ((2, 8), (2, 2), (0, 1)),
    "four_stage_wider_deeper": ((2, 8), (2, 2), (16, 2), (0, 1)),
    "four_stage_deeper_wider": ((2, 8), (16, 8), (16, 2), (0, 1)),
    "last_stage": ((2, 16), (16, 16), (16, 4)),
    "heavy": ((2, 8),),
    "light": ((16, 8),),
}


@spoken
def llavolta(
    schedule: str = "last_stage", layers: int = 32, keep: Keep | None = None
) -> Compressor:
    """Average pooling at layer K, staged over training. Chen et al. 2024, arXiv:2406.20092.

    schedule: one of SCHEDULES, by which `Stages` follows the progress of training: heavy first, light or
    nothing at the end. heavy and light have one stage, and are a plain `Pool`.
    layers: decoder layers of the model (`foveate.sized` takes them from it); layer K of 32 becomes layer
    max(1, ⌊K·layers/32 + ½⌋) (ours), the last one at most.
    keep: only checked: the share that the schedule's last stage keeps, and so inference.
    Raises ValueError for another schedule or budget, and for models of less than two layers.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r}: want one of {', '.join(SCHEDULES)}")
    if keep is not None:
        _check(keep, schedule)
    stages = [_pool(layer, stride, layers) for layer, stride in SCHEDULES[schedule]]
    if len(stages) == 1:
        return stages[0]
    return Stages(*((n / len(stages), stage) for n, stage in enumerate(stages, start=1)))


def _pool(layer: int, stride: int, layers: int) -> Compressor:
    return Identity() if stride == 1 else Pool(stride, layer=scaled(layer, layers))


def _check(keep: Keep, schedule: str) -> None:
    """Raises ValueError unless the schedule keeps this share (within 2 %) at inference."""
    at_the_end = {name: 1 / stages[-1][1] for name, stages in SCHEDULES.items()}
    own = at_the_end[schedule]
    if not isinstance(check_keep(keep), float) or abs(keep / own - 1) > 0.02:
        others = "; ".join(
            f"{share:.3g}: {', '.join(n for n, s in at_the_end.items() if s == share)}"
            for share in sorted(set(at_the_end.values()))
        )
        raise ValueError(
            f"keep={keep!r}: the schedule {schedule} keeps {own:.3g} at inference ({others})"
        )
