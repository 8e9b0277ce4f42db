"""PruMerge+: PruMerge, and tokens at even steps."""

from __future__ import annotations

from foveate.core.ops import Keep
from foveate.core.spec import spoken
from foveate.methods.prumerge import PruMerge


@spoken
def prumerge_plus(keep: Keep | None = None, projected: bool = False) -> PruMerge:
    """Keep the tokens that stand out, and even steps too. Shang et al. 2024, arXiv:2403.15388.

    `PruMerge` with spatial=True; its arguments mean what they mean there.
    """
    return PruMerge(keep, spatial=True, projected=projected)
