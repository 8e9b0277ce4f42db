"""Before the language model: features out, compressors on, marked columns dropped, shapes put back.

`generate` encodes images before it calls the model, where the prompt is not known yet. So compression
itself happens in the base model's pre-hook, where ids, mask and features meet, in training and generation
alike. What compressors need of the vision tower rides beside the features as extra channels of the same
rows: whatever `generate` does to rows (beams, devices) it does to both.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from foveate.compressor import Compressor, Context, Tower
from foveate.hosts import glance, traits
from foveate.hosts.flow import Flow, Memory
from foveate.hosts.positions import Cut, padding_mask
from foveate.hosts.trace import Step
from foveate.tokens import VisualTokens

FROM_TOWER = frozenset({"cls_attention", "keys", "features"})
FROM_PROMPT = frozenset({"text", "text_mask"})
PIXELS = ("pixel_values", "image_sizes", "pixel_attention_mask", "image_grid_thw")


class Image(NamedTuple):
    """Features of all images, padded: tokens (I, P, ·) and what else rode with them."""

    tokens: VisualTokens
    extras: dict[str, Any]
    before_connector: bool


def encode(
    base: nn.Module, bare: Callable[..., Any], parts: list[Compressor], *args: Any, **kwargs: Any
) -> Any:
    """The model's own image features, with what `parts` need as further channels of each row.

    Where a compressor stands before the projector, rows hold the tower's features instead of the
    projected ones. `layout` on the output names the channels.
    """
    needs = frozenset().union(*(part.needs for part in parts)) & FROM_TOWER
    early = any(part.site.tower < Tower.language for part in parts)
    if not needs and not early:
        output = bare(*args, **kwargs)
        if not isinstance(output, tuple):
            output["images"] = len(output.pooler_output)
        return output
    bound = inspect.signature(bare).bind(*args, **kwargs)
    layer = bound.arguments.get("vision_feature_layer")
    if "features" in needs:
        kwargs["output_hidden_states"] = True
    look = glance.TowerGlance(traits.has_class_token(base), needs)
    kwargs.update({glance.TOWER_KEY: look, "return_dict": True})
    output = bare(*args, **kwargs)

    channels = {"x": traits.selected_features(base, output, layer) if early else None}
    if not early:
        channels["x"] = torch.stack(list(output.pooler_output))
    if "cls_attention" in needs:
        channels["cls_attention"] = traits.without_class(base, look.seen["cls_attention"])[
            ..., None
        ]
    if "keys" in needs:
        channels["keys"] = traits.without_class(base, look.seen["keys"])
    if "features" in needs:
        states = [traits.without_class(base, h) for h in output.hidden_states]
        channels |= {f"features.{i}": h for i, h in enumerate(states)}
    rows = torch.cat(list(channels.values()), dim=-1)  # promotes to float32 beside float32 scores
    output["layout"] = tuple((name, c.shape[-1]) for name, c in channels.items())
    output["early"], output["images"] = early, len(rows)
    output["dtype"] = str(channels["x"].dtype).removeprefix("torch.")
    output.pooler_output = list(rows)
    return output


def unpack(base: nn.Module, output: Any) -> Image:
    """What `encode` packed."""
    rows = list(output.pooler_output)
    valid = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows]
    wide, valid = pad_sequence(rows, batch_first=True), pad_sequence(valid, batch_first=True)
    layout = output.get("layout")
    if layout is None:
        return Image(VisualTokens.of(wide, valid), {}, before_connector=False)
    names, widths = zip(*layout, strict=True)
    channels = dict(zip(names, wide.split(widths, dim=-1), strict=True))
    x = channels.pop("x").to(getattr(torch, output["dtype"]))
    extras: dict[str, Any] = {}
    if "cls_attention" in channels:
        extras["cls_attention"] = channels["cls_attention"][..., 0]
    if "keys" in channels:
        extras["keys"] = channels["keys"]
    features = [c.to(x.dtype) for name, c in channels.items() if name.startswith("features.")]
    if features:
        extras["features"] = tuple(features)
    return Image(VisualTokens.of(x, valid), extras, output["early"])


def locate(ids: Tensor, placeholder: int, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Where each image's patches stand: prompt (I,) and column (I, P), -1 behind the last patch.

    Raises ValueError if placeholders and features do not match, with their numbers.
    """
    is_visual = ids == placeholder
    found = is_visual.flatten().nonzero()[:, 0]
    if len(found) != int(counts.sum()):
        raise ValueError(
            f"{len(found)} placeholders for {int(counts.sum())} visual tokens of {len(counts)} images: "
            "images and prompts must match"
        )
    P = int(counts.max()) if len(counts) else 0
    patch = torch.arange(P, device=ids.device)
    inside = patch < counts[:, None]
    index = ((counts.cumsum(0) - counts)[:, None] + patch).clamp(max=max(len(found) - 1, 0))
    flat = found[index]
    prompt = flat[:, 0] // ids.shape[1]
    if bool(((flat // ids.shape[1] != prompt[:, None]) & inside).any()):
        raise ValueError("the placeholders of one image are split over two prompts")
    return prompt, (flat % ids.shape[1]).masked_fill(~inside, -1)


def instruction(ids: Tensor, real: Tensor, is_visual: Tensor, flow: Flow, seeing: bool) -> None:
    """Fill in which columns hold the instruction; an answer never does.

    Raises ValueError where training gives no way to tell the two apart though a compressor looks.
    """
    text = real & ~is_visual
    if flow.instruction_mask is not None:
        mask = flow.instruction_mask.bool()
        text = text & torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=False)
        flow.instruction, flow.questions = text, text
        return
    if flow.labels is not None:
        text = text & (flow.labels == -100)
        answered = ((flow.labels != -100) & real).cumsum(1) > 0
        flow.instruction, flow.questions = text, text & ~answered
        return
    if seeing and flow.step is not None and torch.is_grad_enabled():
        raise ValueError(
            "training without labels: nothing tells the instruction from the answer, which a compressor "
            "that reads the prompt must not see; pass labels or instruction_mask"
        )
    if seeing and flow.logits_to_keep > 1:
        raise ValueError(
            f"logits_to_keep={flow.logits_to_keep}: the prompt may end in guessed tokens (assisted "
            "decoding) that a compressor would read; pass instruction_mask, or decode without an assistant"
        )
    flow.instruction, flow.questions = text, text


def apply(
    part: Compressor, tokens: VisualTokens, known: dict[str, Any], flow: Flow, came: VisualTokens
) -> VisualTokens:
    """One compressor on the tokens, with what it needs; notes the step. `came`: before any compressor."""
    missing = part.needs - known.keys() - {"generator"}
    if missing:
        raise NotImplementedError(f"{type(part).__name__} at {part.site} needs {sorted(missing)}")
    fields = {name: known[name] for name in part.needs - {"generator"}}
    for name in ("cls_attention", "keys"):
        if name in fields:
            fields[name] = _follow(tokens, fields[name], name)
    if "features" in fields:
        fields["features"] = tuple(tokens.mean(f) for f in fields["features"])
    if "generator" in part.needs:
        fields["generator"] = flow.generators(part.seed)
    out = part(tokens, Context(**fields))
    flow.steps.append(note(part, tokens, out, Context(**fields), known.get("grid")))
    return out


def _follow(tokens: VisualTokens, value: Tensor, name: str) -> Tensor:
    """A field of patches for tokens that may carry several: attention is summed, keys are averaged."""
    if tokens.owner.shape == tokens.valid.shape and tokens.x.shape[1] == value.shape[1]:
        return value
    return tokens.total(value) if name == "cls_attention" else tokens.mean(value)


def note(
    part: Compressor, tokens: VisualTokens, out: VisualTokens, context: Context, grid: Tensor | None
) -> Step:
    """The step a compressor took, for those who look."""
    fields = (context.cls_attention, context.last_attention, context.prompt_attention)
    score = next((s for s in fields if s is not None), None)
    if score is not None:
        spread = score.detach().float().gather(1, tokens.owner.clamp(min=0))
        score = spread.masked_fill(tokens.owner < 0, torch.nan)
    return Step(part.site, out.owner.detach(), tokens.counts, out.counts, score, grid)


def prefill(
    base: nn.Module, kwargs: dict[str, Any], parts: list[Compressor], flow: Flow, output: Any
) -> None:
    """Compress the images of a prompt and rewrite `kwargs` for the shorter one."""
    ids = kwargs["input_ids"]
    image = unpack(base, output)
    flow.prompt, column = locate(
        ids, traits.placeholder_id(base), image.tokens.counts.to(ids.device)
    )
    is_visual = ids == traits.placeholder_id(base)
    real = padding_mask(kwargs.get("attention_mask"), ids.shape[1])
    real = torch.ones_like(is_visual) if real is None else real
    needs = frozenset().union(
        *(p.needs for p in parts), *(p.needs for ps in flow.inside.values() for p in ps)
    )
    seeing = bool(needs & {"text", "text_mask", "last_attention", "prompt_attention"})
    instruction(ids, real, is_visual, flow, seeing)
    flow.copies = (
        len(flow.prompt) // output.get("images", len(flow.prompt)) if len(flow.prompt) else 1
    )
    flow.grid = patch_grid(base, image.tokens)

    known = {**image.extras, "grid": flow.grid}
    if needs & FROM_PROMPT:
        embedded = base.get_input_embeddings()(ids.masked_fill(is_visual, traits.padding_id(base)))
        flow.text, flow.text_mask = embedded[flow.prompt], flow.instruction[flow.prompt]
        known |= {"text": flow.text, "text_mask": flow.text_mask}
    flow.tokens = tokens = compressed(base, image, parts, known, flow)
    flow.penalty = flow.penalty + tokens.penalty
    _place(base, kwargs, flow, output, column, real)


def compressed(
    base: nn.Module, image: Image, parts: list[Compressor], known: dict[str, Any], flow: Flow
) -> VisualTokens:
    """The tokens after every compressor up to language 0, and after the projector."""
    tokens, projected = image.tokens, not image.before_connector
    for part in parts:
        if not projected and part.site.tower == Tower.language:
            tokens, projected = tokens.carry(traits.connector_of(base)(tokens.x)), True
        tokens = apply(part, tokens, known, flow, image.tokens)
        projected = projected or part.site.tower == Tower.projector
    return tokens if projected else tokens.carry(traits.connector_of(base)(tokens.x))


def patch_grid(base: nn.Module, tokens: VisualTokens) -> Tensor | None:
    """(I, P, 3) view, row and column of each patch; None where the patches are no whole grid."""
    images, P = tokens.valid.shape
    shape = traits.grid_of(base, P)
    if shape is None or not bool(tokens.valid.all()):
        return None
    patch = torch.arange(P, device=tokens.x.device)
    cells = torch.stack([torch.zeros_like(patch), patch // shape[1], patch % shape[1]], dim=-1)
    return cells.expand(images, P, 3)


def _place(
    base: nn.Module, kwargs: dict[str, Any], flow: Flow, output: Any, column: Tensor, real: Tensor
) -> None:
    """Put the kept tokens where they belong, and drop the columns of the others."""
    ids, tokens = kwargs["input_ids"], flow.tokens
    B, S = ids.shape
    cache = ready_cache(base, kwargs)
    position = kwargs.get("position_ids")
    counted = torch.arange(S, device=ids.device).expand(B, S) if position is None else position
    if counted.dim() != 2:
        raise NotImplementedError("multi-axis position ids are not supported by this host yet")
    counted = counted.expand(B, S)
    flow.patches = counted[flow.prompt[:, None], column.clamp(min=0)].masked_fill(column < 0, 0)
    anchor = tokens.anchor.to(ids.device)
    place = column.gather(1, anchor.clamp(max=max(column.shape[1] - 1, 0)))
    row = flow.prompt[:, None].expand_as(place)
    keep = ids != traits.placeholder_id(base)
    keep[row[tokens.valid], place[tokens.valid]] = True
    flow.place, flow.real = place, real

    # A copy: without a cache, generate hands the same encoded images to every step.
    output = copy.copy(output)
    output.pooler_output = [x[v] for x, v in zip(tokens.x, tokens.valid, strict=True)]
    kwargs["mm_encoder_outputs"] = {**(kwargs.get("mm_encoder_outputs") or {}), "image": output}
    following = torch.full_like(counted[:, 0], S)  # without position ids, models count columns
    if position is not None:
        following = torch.where(real, counted, -1).amax(1) + 1
    if bool(keep.all()):
        if cache is not None:
            cache.visual_memory = Memory(S, S, None, following, None)
            flow.memory = cache.visual_memory
        return
    _drop(base, kwargs, flow, counted, keep & real, cache, following)


def _drop(
    base: nn.Module,
    kwargs: dict[str, Any],
    flow: Flow,
    counted: Tensor,
    keep: Tensor,
    cache: Any,
    following: Tensor,
) -> None:
    """The same call on the columns that stay."""
    tokens, prompt, real = flow.tokens, flow.prompt, flow.real
    pad_right = bool((~real[:, -1]).any())
    flow.cut = cut = Cut.keeping(keep, pad_right)
    row = prompt[:, None].expand_as(flow.place)
    flow.place = cut.back[row, flow.place]
    position = cut.take(counted.contiguous())
    shift = None
    if flow.renumber:
        start = torch.where(real, counted, counted.amax()).amin(1, keepdim=True)
        position = start + (cut.valid.long().cumsum(1) - 1).clamp(min=0)
        shift = following - start[:, 0] - cut.valid.sum(1)
    else:
        middle = tokens.mean(flow.patches)
        position[row[tokens.valid], flow.place[tokens.valid]] = middle[tokens.valid]
        flow.gapped = True
    padded = not bool(cut.valid.all())
    kwargs["input_ids"] = cut.take(kwargs["input_ids"], fill=traits.padding_id(base))
    for name in ("token_type_ids", "mm_token_type_ids"):
        if kwargs.get(name) is not None:
            kwargs[name] = cut.take(kwargs[name], fill=0)
    kwargs["position_ids"] = position
    # Gapped positions without mask and cache would be taken for packed sequences.
    kwargs["attention_mask"] = cut.valid.long() if padded or cache is None else None
    flow.instruction, flow.questions = (
        cut.take(m, fill=False) for m in (flow.instruction, flow.questions)
    )
    flow.real = cut.valid
    if cache is not None:
        remembered = cut.valid if padded else None
        flow.memory = Memory(real.shape[1], cut.order.shape[1], remembered, following, shift)
        cache.visual_memory = flow.memory


def ready_cache(base: nn.Module, kwargs: dict[str, Any]) -> Any:
    """The cache this call will fill: given, or made now as the model itself would."""
    cache = kwargs.get("past_key_values")
    decoder = traits.decoder_of(base)
    use = kwargs.get("use_cache")
    use = getattr(decoder.config, "use_cache", False) if use is None else use
    checkpointing = getattr(decoder, "gradient_checkpointing", False) and base.training
    if cache is None and use and not checkpointing:
        cache = kwargs["past_key_values"] = DynamicCache(config=decoder.config)
    return cache


def decode(kwargs: dict[str, Any], memory: Memory, cache: Any, flow: Flow) -> None:
    """Rewrite a later call on the cache of a compressed prompt, in the cache's own columns."""
    name = "input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"
    fed = kwargs[name].shape[1]
    seen = int(cache.get_seq_length()) - memory.length
    position, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    flat = mask is not None and not isinstance(mask, dict) and mask.dim() == 2
    new = fed
    if fed > 1 and position is not None:
        new = int(position[0, -1]) + 1 - int(memory.following[0]) - seen
    elif fed > 1 and flat:
        new = mask.shape[1] - memory.outside - seen
    if not 0 < new <= fed:
        raise ValueError(
            f"{fed} columns for a cache of {memory.outside} prompt and {seen} later columns: "
            "pass the whole conversation, or only what is new with its position_ids"
        )
    flow.fed = fed
    kwargs[name] = kwargs[name][:, fed - new :]
    if memory.length == memory.outside:
        if position is not None:
            kwargs["position_ids"] = position[..., fed - new :]
        return
    step = torch.arange(seen, seen + new, device=memory.following.device)
    position = memory.following[:, None] + step if position is None else position[..., fed - new :]
    shift = memory.shift
    kwargs["position_ids"] = position if shift is None else position - shift[:, None]
    tail = torch.ones(len(memory.following), seen + new, dtype=torch.bool, device=step.device)
    if flat:
        tail = mask[:, memory.outside :].bool()
    if memory.real is None and not (flat or new > 1):
        kwargs["attention_mask"] = None
        return
    real = tail.new_ones(len(tail), memory.length) if memory.real is None else memory.real
    kwargs["attention_mask"] = torch.cat([real, tail], dim=1).long()


def of_images(step: Step, which: Tensor) -> Step:
    """The step, of some of the images only. which (I,) bool."""
    picked = {
        name: value[which.to(value.device)]
        for name in ("owner", "before", "after", "scores", "grid")
        if (value := getattr(step, name)) is not None
    }
    return replace(step, **picked)
