"""What a compressor may look at, and a note of what it did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveate.compressor import Compressor, Context
from foveate.hosts.flow import Flow
from foveate.hosts.trace import Step
from foveate.tokens import VisualTokens

READS_PROMPT = frozenset({"text", "text_mask", "last_attention", "prompt_attention"})


def find_instruction(real: Tensor, is_visual: Tensor, flow: Flow, needs: frozenset[str]) -> None:
    """Fill in which columns hold the instruction and which come before any answer; neither holds one.

    real, is_visual (B, S); needs: what all compressors together look at.
    Raises ValueError where nothing tells instruction and answer apart though a compressor looks.
    """
    text = real & ~is_visual
    if flow.instruction_mask is not None:
        mask = flow.instruction_mask.bool()
        mask = torch.nn.functional.pad(mask, (0, text.shape[1] - mask.shape[1]), value=False)
        flow.instruction = text & mask
        flow.asking = real & (mask.flip(1).cumsum(1).flip(1) > 0)  # up to its last column
    elif flow.labels is not None:
        answer = text & (flow.labels != -100)
        flow.instruction = text & ~answer
        flow.asking = real & (answer.cumsum(1) == 0)
    else:
        flow.instruction, flow.asking = text, real
        _refuse_guessing(flow, bool(needs & READS_PROMPT))


def _refuse_guessing(flow: Flow, looks: bool) -> None:
    if looks and flow.training and torch.is_grad_enabled():
        raise ValueError(
            "training without labels: nothing tells the instruction from the answer, which a compressor "
            "that reads the prompt must not see; pass labels or instruction_mask"
        )
    if looks and flow.logits_to_keep > 1:
        raise ValueError(
            f"logits_to_keep={flow.logits_to_keep}: the prompt may end in guessed tokens, as in assisted "
            "decoding, that a compressor would read; decode without an assistant, or say what is prompt by "
            "calling the model with instruction_mask"
        )


def refuse_unseen(ends: Tensor, flow: Flow, needs: frozenset[str]) -> None:
    """Raise ValueError if no row that a compressor may read comes behind an image. ends (I,) last columns."""
    said = flow.instruction[flow.prompt].any(1)
    if needs & {"text", "text_mask"} and not bool(said.all()):
        raise ValueError(
            f"no instruction in prompt {int(flow.prompt[~said][0])} of the batch, which a compressor reads: "
            "labels must be -100 where the instruction stands, or pass instruction_mask"
        )
    column = torch.arange(flow.asking.shape[1], device=ends.device)
    rows = {"last_attention": flow.asking, "prompt_attention": flow.asking & flow.instruction}
    for name in sorted(needs & rows.keys()):
        last = (column * rows[name]).amax(1)[flow.prompt]
        if bool((last < ends).any()):
            image = int((last < ends).nonzero()[0])
            raise ValueError(
                f"image {image} of the batch ends at column {int(ends[image])}, behind the last one that may "
                f"be read for {name} ({int(last[image])}): give each row one question behind its images, "
                "before any answer"
            )


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
    out = part(tokens, context)
    flow.steps.append(_note(part, tokens, out, context, known.get("grid")))
    return out


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
    part: Compressor, tokens: VisualTokens, out: VisualTokens, context: Context, grid: Tensor | None
) -> Step:
    attention = (context.cls_attention, context.last_attention, context.prompt_attention)
    scores = next((a for a in attention if a is not None), None)
    if scores is not None:
        scores = scores.detach().float().gather(1, tokens.owner.clamp(min=0))
        scores = scores.masked_fill(tokens.owner < 0, torch.nan)
    return Step(part.site, out.owner.detach(), tokens.counts, out.counts, scores, grid)


def of_images(step: Step, count: int) -> Step:
    """The step, of the first images only."""
    fields = {name: getattr(step, name) for name in ("owner", "before", "after", "scores", "grid")}
    return replace(step, **{k: v[:count] for k, v in fields.items() if v is not None})
