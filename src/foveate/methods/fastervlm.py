"""FasterVLM: VisionZip's dominant tokens, and nothing else."""

from __future__ import annotations

from foveate.core.ops import Keep
from foveate.core.spec import spoken
from foveate.methods.visionzip import VisionZip


@spoken
def fastervlm(keep: Keep = 64, projected: bool = False, per_view: bool = False) -> VisionZip:
    """Keep what the class token looks at, drop the rest. Zhang et al. 2024, arXiv:2412.01818.

    VisionZip without merged tokens; its arguments mean what they mean there. The paper's later version is
    `vispruner`. Positions are kept unless `compress(…, positions="renumbered")`, as the authors have it.
    """
    return VisionZip(keep, contextual=0.0, projected=projected, per_view=per_view)
