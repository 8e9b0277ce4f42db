"""What a compressor may look at, and a note of what it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.core import authored
from foveate.core.compressor import Compressor, Context
from foveate.core.joined import joined
from foveate.core.tokens import VisualTokens
from foveate.hosts import encode
from foveate.hosts.glance import ATTENTION
from foveate.hosts.samples import Draws
from foveate.hosts.trace import Step


def apply(
    part: Compressor,
    tokens: VisualTokens,
    known: Mapping[str, Any],
    draws: Draws,
    width: int,
    traced: bool,
    merges: bool,
) -> tuple[VisualTokens, Step]:
    """What one compressor leaves of the tokens, given no more than it needs, and a note of it.

    known: fields of the tokens as they are now, or of the patches (what the tower showed); width: of what it
    must give. Only where `traced` is it asked what it chose by. merges: what it drops joins what it keeps.
    """
    if missing := part.needs - known.keys() - {"generator"}:
        raise NotImplementedError(f"{type(part).__name__} at {part.site} needs {sorted(missing)}")
    fields = {name: known[name] for name in part.needs - {"generator"}}
    for name, chosen in encode.chosen(part).items():
        fields[name] = {i: known[name][i] for i in chosen}
    fields = {name: _carried(tokens, name, value) for name, value in fields.items()}
    if "generator" in part.needs:
        fields["generator"] = draws.generators(part.seed, len(tokens.valid))
    context = Context(**fields)
    out = authored.acted(part, tokens, context, width)
    out = joined(tokens, out) if merges else out
    scores = part.scores(tokens, context) if traced else None
    return out, _note(part, tokens, out, scores, known.get("grid"))


def _carried(tokens: VisualTokens, name: str, value: Any) -> Any:
    """A field of patches, for tokens that may carry several: attention is summed, vectors averaged."""
    if isinstance(value, Mapping):
        return {i: _carried(tokens, name, one) for i, one in value.items()}
    if name not in (*ATTENTION, "keys", "features") or not _moved(tokens):
        return value
    return tokens.total(value) if name in ATTENTION else tokens.mean(value)


def _moved(tokens: VisualTokens) -> bool:
    patch = torch.arange(tokens.owner.shape[1], device=tokens.owner.device)
    return bool(((tokens.owner != patch) & (tokens.owner > -2)).any())


def _note(
    part: Compressor,
    tokens: VisualTokens,
    out: VisualTokens,
    scores: Tensor | None,
    grid: Tensor | None,
) -> Step:
    if scores is not None:
        scores = scores.detach().float().gather(1, tokens.owner.clamp(min=0))
        scores = scores.masked_fill(tokens.owner < 0, torch.nan)
    return Step(part.site, out.owner.detach(), tokens.counts, out.counts, scores, grid)
