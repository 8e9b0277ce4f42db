"""Before the language model: compressors on, and the columns of dropped tokens out of the prompt."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from foveate.compressor import Compressor, Tower
from foveate.hosts import context, encode, traits
from foveate.hosts.flow import Flow, Memory
from foveate.hosts.positions import Cut, padding_mask
from foveate.tokens import VisualTokens


def prefill(
    base: nn.Module, kwargs: dict[str, Any], parts: list[Compressor], flow: Flow, output: Any
) -> None:
    """Compress the images of a prompt and rewrite `kwargs` for the shorter one."""
    ids = kwargs["input_ids"]
    images = encode.unpack(output)
    is_visual = ids == traits.placeholder_id(base)
    flow.prompt, column = locate(is_visual, images.tokens.counts.to(ids.device))
    flow.copies = max(len(flow.prompt) // max(output[encode.IMAGE_COUNT], 1), 1)
    real = padding_mask(kwargs.get("attention_mask"), ids.shape[1])
    flow.real = torch.ones_like(is_visual) if real is None else real
    everyone = [*parts, *(part for inside in flow.inside.values() for part in inside)]
    needs = frozenset().union(*(part.needs for part in everyone))
    context.find_instruction(flow.real, is_visual, _told(output, ids, flow), needs)
    context.refuse_unseen(column.amax(1), flow, needs)
    flow.grid = encode.patch_grid(base, images.tokens)
    if "text" in needs:
        words = base.get_input_embeddings()(ids.masked_fill(is_visual, traits.padding_id(base)))
        flow.text, flow.text_mask = words[flow.prompt], flow.instruction[flow.prompt]
    flow.tokens = compress_images(base, images, parts, flow)
    flow.penalty = flow.penalty + flow.tokens.penalty

    # A copy: without a cache, generate hands the same encoded images to every step.
    output = copy.copy(output)
    output.pooler_output = [x[v] for x, v in zip(flow.tokens.x, flow.tokens.valid, strict=True)]
    kwargs["mm_encoder_outputs"] = {**(kwargs.get("mm_encoder_outputs") or {}), "image": output}
    place(base, kwargs, flow, column)


def _told(output: Any, ids: Tensor, flow: Flow) -> Flow:
    """The flow, told what is prompt where the same encoded images come back with more behind it.

    Without a cache, generate recomputes the whole sequence at every step: what it wrote is no prompt.
    """
    known = output.get("prompt_ids")
    if known is None or not _continues(ids, known):
        output["prompt_ids"] = ids
    elif flow.labels is None and flow.instruction_mask is None and ids.shape[1] > known.shape[1]:
        flow.instruction_mask = torch.ones_like(known)
    return flow


def _continues(ids: Tensor, known: Tensor) -> bool:
    return ids.shape[0] == known.shape[0] and torch.equal(ids[:, : known.shape[1]], known)


def locate(is_visual: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Where each image's patches stand: prompt (I,) and column (I, P), -1 behind the last patch.

    is_visual (B, S) placeholders; counts (I,) patches of each image, in the order of the prompts.
    Raises ValueError if placeholders and features do not match, with their numbers.
    """
    found = is_visual.flatten().nonzero()[:, 0]
    if len(found) != int(counts.sum()):
        raise ValueError(
            f"{len(found)} placeholders for {int(counts.sum())} visual tokens of {len(counts)} images: "
            "images and prompts must match"
        )
    patch = torch.arange(int(counts.max()) if len(counts) else 0, device=counts.device)
    inside = patch < counts[:, None]
    index = (counts.cumsum(0) - counts)[:, None] + patch
    flat = found[index.clamp(max=max(len(found) - 1, 0))]
    S = is_visual.shape[1]
    prompt = flat[:, 0] // S
    if bool(((flat // S != prompt[:, None]) & inside).any()):
        raise ValueError("the placeholders of one image are split over two prompts")
    return prompt, (flat % S).masked_fill(~inside, -1)


def compress_images(
    base: nn.Module, images: encode.Images, parts: list[Compressor], flow: Flow
) -> VisualTokens:
    """The tokens after every compressor up to language 0, and after the projector."""
    known = {**images.fields, "grid": flow.grid, "text": flow.text, "text_mask": flow.text_mask}
    known = {name: value for name, value in known.items() if value is not None}
    tokens, projected = images.tokens, images.projected

    def project() -> VisualTokens:
        return tokens.carry(traits.connector_of(base)(tokens.x))

    for part in parts:
        if not projected and part.site.tower == Tower.language:
            tokens, projected = project(), True
        tokens = context.apply(part, tokens, known, flow)
        projected = projected or part.site.tower == Tower.projector
    return tokens if projected else project()


def place(base: nn.Module, kwargs: dict[str, Any], flow: Flow, column: Tensor) -> None:
    """Say where the kept tokens stand, and drop the columns of the others. column (I, P)."""
    ids, tokens = kwargs["input_ids"], flow.tokens
    B, S = ids.shape
    position = kwargs.get("position_ids")
    if position is not None and position.dim() != 2:
        raise NotImplementedError("multi-axis position ids are not supported by this host yet")
    if position is None:  # models count columns then, whatever the padding
        counted = torch.arange(S, device=ids.device).expand(B, S)
        following = torch.full((B,), S, device=ids.device)
    else:
        counted = position.expand(B, S)
        following = torch.where(flow.real, counted, -1).amax(1) + 1
    row = flow.prompt[:, None]
    flow.patches = counted[row, column.clamp(min=0)]
    flow.place = column.gather(1, tokens.anchor.clamp(max=max(column.shape[1] - 1, 0)))
    keep = ids != traits.placeholder_id(base)
    keep[row.expand_as(flow.place)[tokens.valid], flow.place[tokens.valid]] = True
    cache = ready_cache(base, kwargs)
    if bool(keep.all()):
        flow.memory = Memory(S, S, None, following, None, flow.renumber)
    else:
        _drop(base, kwargs, flow, keep, counted, following, cached=cache is not None)
    if cache is not None:
        cache.visual_memory = flow.memory


def _drop(
    base: nn.Module,
    kwargs: dict[str, Any],
    flow: Flow,
    keep: Tensor,
    counted: Tensor,
    following: Tensor,
    cached: bool,
) -> None:
    """The same call on the columns that stay. keep, counted (B, S), following (B,)."""
    tokens, real = flow.tokens, flow.real
    if hidden := int((keep & (kwargs["input_ids"] == traits.placeholder_id(base)) & ~real).sum()):
        raise ValueError(
            f"the attention_mask hides {hidden} placeholders of visual tokens that were kept"
        )
    flow.cut = cut = Cut.keeping(keep & real, pad_right=bool((~real[:, -1]).any()))
    row = flow.prompt[:, None].expand_as(flow.place)
    flow.place = cut.back[row, flow.place]
    shift = None
    if flow.renumber:
        start = torch.where(real, counted, counted.amax()).amin(1, keepdim=True)
        position = start + (cut.valid.long().cumsum(1) - 1).clamp(min=0)
        shift = following - start[:, 0] - cut.valid.sum(1)
    else:
        position = cut.take(counted)
        where = row[tokens.valid], flow.place[tokens.valid]
        position[where] = tokens.mean(flow.patches)[tokens.valid]
        flow.gapped = True
    kwargs["position_ids"] = position
    kwargs["input_ids"] = cut.take(kwargs["input_ids"], fill=traits.padding_id(base))
    for name in ("token_type_ids", "mm_token_type_ids"):
        if kwargs.get(name) is not None:
            kwargs[name] = cut.take(kwargs[name], fill=0)
    padded = not bool(cut.valid.all())
    # Without mask and cache, gapped positions would be taken for packed sequences.
    kwargs["attention_mask"] = cut.valid.long() if padded or not cached else None
    flow.instruction = cut.take(flow.instruction, fill=False)
    flow.asking = cut.take(flow.asking, fill=False)
    flow.real = cut.valid
    remembered = cut.valid if padded else None
    length = cut.order.shape[1]
    flow.memory = Memory(real.shape[1], length, remembered, following, shift, flow.renumber)


def ready_cache(base: nn.Module, kwargs: dict[str, Any]) -> Any:
    """The cache this call will fill: given, or made now as the model itself would; None without one."""
    decoder = traits.decoder_of(base)
    use = kwargs.get("use_cache")
    use = getattr(decoder.config, "use_cache", False) if use is None else use
    checkpointing = getattr(decoder, "gradient_checkpointing", False) and base.training
    if kwargs.get("past_key_values") is None and use and not checkpointing:
        kwargs["past_key_values"] = DynamicCache(config=decoder.config)
    return kwargs.get("past_key_values")
