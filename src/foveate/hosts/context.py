"""What a compressor may look at, and a note of what it did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveate.core.compressor import Compressor, Context, Tower
from foveate.core.tokens import VisualTokens
from foveate.hosts import authored
from foveate.hosts.flow import Flow
from foveate.hosts.trace import Step


def apply(
    part: Compressor, tokens: VisualTokens, known: dict[str, Any], flow: Flow
) -> VisualTokens:
    """One compressor on the tokens, with no more than it needs; notes the step on the flow.

    known: fields of the tokens as they are now, or of the patches (cls_attention, keys, features).
    """
    if missing := part.needs - known.keys() - {"generator"}:
        raise NotImplementedError(f"{type(part).__name__} at {part.site} needs {sorted(missing)}")
    if "features" in part.needs:
        known = known | {"features": {i: known["features"][i] for i in part.vision_layers}}
    fields = {name: _carried(tokens, name, known[name]) for name in part.needs - {"generator"}}
    if "generator" in part.needs:
        fields["generator"] = flow.generators(part.seed)
    context = Context(**fields)
    out = _given(part, tokens, context)
    width = (
        flow.decoder.config.hidden_size
        if part.site.tower == Tower.projector
        else tokens.x.shape[-1]
    )
    authored.check_result(part, tokens, out, width)
    scores = part.scores(tokens, context) if flow.traced else None
    flow.steps.append(_note(part, tokens, out, scores, known.get("grid")))
    return out


def _given(part: Compressor, tokens: VisualTokens, context: Context) -> Any:
    """What the compressor makes of the tokens. Raises TypeError where it reads what it does not declare."""
    try:
        return part(tokens, context)
    except (AttributeError, TypeError) as error:
        if (field := authored.undeclared(part, context, error)) is None:
            raise
        raise TypeError(
            f"{type(part).__name__}.forward reads context.{field}, which is None as it does not declare it: "
            f"want {field!r} in its needs"
        ) from error


def _carried(tokens: VisualTokens, name: str, value: Any) -> Any:
    """A field of patches, for tokens that may carry several: attention is summed, vectors averaged."""
    if name == "features":
        return {i: _carried(tokens, "state", state) for i, state in value.items()}
    if name not in ("cls_attention", "keys", "state") or not _moved(tokens):
        return value
    return tokens.total(value) if name == "cls_attention" else tokens.mean(value)


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


def of_images(step: Step, count: int) -> Step:
    """The step, of the first images only."""
    fields = {name: getattr(step, name) for name in ("owner", "before", "after", "scores", "grid")}
    return replace(step, **{k: v[:count] for k, v in fields.items() if v is not None})
