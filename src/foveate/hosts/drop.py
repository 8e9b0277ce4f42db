"""Dropped tokens out of a prompt: the same call on the columns that stay."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from foveate.hosts import traits
from foveate.hosts.flow import Prompt
from foveate.hosts.positions import Cut, at, last, of_left, renumbered
from foveate.hosts.proportional import weight_of


def counted(base: nn.Module, kwargs: dict[str, Any], real: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B, S) position ids of a prompt as the model would count them, and (B,) the one that follows."""
    position, (B, S) = _positions(base, kwargs, real), real.shape
    if position is not None:
        return position, last(position, real) + 1
    first = traits.first_position(base)  # models count columns then, whatever the padding
    position = torch.arange(first, first + S, device=real.device).expand(1, B, S)
    return position, torch.full((B,), first + S, device=real.device)


def _positions(base: nn.Module, kwargs: dict[str, Any], real: Tensor) -> Tensor | None:
    """Position ids, given or counted, on A axes; None: columns.

    Three axes (time, row, column) are those of M-RoPE. Such a model notes how far text behind images is
    ahead of its columns, for later calls without position ids; as it counts here, it is noted here.
    """
    position = kwargs.get("position_ids")
    if position is not None and position.dim() == 3:
        return position[1:] if len(position) == 4 else position
    if position is not None:
        return position[None].expand(1, *real.shape)
    if not hasattr(base, "get_rope_index") or kwargs.get("mm_token_type_ids") is None:
        return None
    names = inspect.signature(base.get_rope_index).parameters
    given = {n: kwargs[n] for n in names if kwargs.get(n) is not None and n != "attention_mask"}
    position, base.rope_deltas = base.get_rope_index(**given, attention_mask=real.long())
    return position


def out(
    base: nn.Module, kwargs: dict[str, Any], prompt: Prompt, counted: Tensor
) -> tuple[dict[str, Any], Prompt]:
    """The call and its prompt, still in all its columns, on those that stay. counted (A, B, S).

    What decoding must remember of it is put on the cache that the call fills.
    """
    keep, cache = _staying(base, kwargs["input_ids"], prompt), _cache(base, kwargs)
    if cache is not None:
        kwargs = {**kwargs, "past_key_values": cache}
    if not bool(keep.all()):
        kwargs, prompt = _cut(base, kwargs, prompt, keep, counted)
    if prompt.switches.proportional:
        prompt = _weighed(prompt)
    if cache is not None:
        cache.visual_memory = prompt.memory
    return kwargs, prompt


def _weighed(prompt: Prompt) -> Prompt:
    """The prompt, whose memory says what its columns weigh."""
    entry, shape = prompt.entry, prompt.columns.real.shape
    weight = weight_of(entry.tokens, prompt.images.row, entry.place, shape)
    return replace(prompt, memory=replace(prompt.memory, weight=weight))


def _staying(base: nn.Module, ids: Tensor, prompt: Prompt) -> Tensor:
    """(B, S) the columns of text, of tokens and of newlines that stay."""
    keep, row, entry = ~traits.is_visual(base, ids), prompt.images.row, prompt.entry
    keep[at(row, entry.place, entry.tokens.valid)] = True
    if (newlines := prompt.images.newlines) is not None:
        keep[at(row, newlines.column, newlines.column >= 0)] = True
    return keep


def _cache(base: nn.Module, kwargs: dict[str, Any]) -> Any:
    """The cache this call will fill: given, or made now as the model itself would; None without one."""
    decoder, cache = traits.decoder_of(base), kwargs.get("past_key_values")
    use = kwargs.get("use_cache")
    use = getattr(decoder.config, "use_cache", False) if use is None else use
    checkpointing = getattr(decoder, "gradient_checkpointing", False) and base.training
    made = cache is None and use and not checkpointing
    return DynamicCache(config=decoder.config) if made else cache


def _cut(
    base: nn.Module, kwargs: dict[str, Any], prompt: Prompt, keep: Tensor, counted: Tensor
) -> tuple[dict[str, Any], Prompt]:
    """The same call on the columns marked True. keep (B, S)."""
    real, ids = prompt.columns.real, kwargs["input_ids"]
    if hidden := int((keep & traits.is_visual(base, ids) & ~real).sum()):
        raise ValueError(
            f"the attention_mask hides {hidden} placeholders of visual tokens that were kept"
        )
    cut = Cut.keeping(keep & real, pad_right=bool((~real[:, -1]).any()))
    prompt = _moved(prompt, cut)
    position, shift = _left_positions(prompt, counted, real)
    contiguous = (cut.valid.long().cumsum(1) - 1).clamp(min=0)
    padded = not bool(cut.valid.all())
    cached = kwargs.get("past_key_values") is not None
    taken = {
        "input_ids": cut.take(ids, fill=traits.padding_id(base)),
        # Of four axes, the first is what masks are made of: without gaps.
        "position_ids": position[0]
        if len(position) == 1
        else torch.cat([contiguous[None], position]),
        # Without mask and cache, gapped positions would be taken for packed sequences.
        "attention_mask": cut.valid.long() if padded or not cached else None,
    }
    for name, types in kwargs.items():
        if name.endswith("token_type_ids") and types is not None:
            missing = real.shape[1] - types.shape[1]  # an assistant's guesses are left out of them
            taken[name] = cut.take(torch.nn.functional.pad(types, (0, missing)), fill=0)
    memory = replace(
        prompt.memory,
        length=cut.order.shape[1],
        real=cut.valid if padded else None,
        shift=shift,
    )
    return {**kwargs, **taken}, replace(prompt, memory=memory)


def _moved(prompt: Prompt, cut: Cut) -> Prompt:
    """What stands in the prompt, where it stands after the cut."""
    row, images, entry = prompt.images.row, prompt.images, prompt.entry
    images = replace(images, newlines=images.newlines and images.newlines.moved(cut.back[row]))
    entry = replace(entry, place=cut.back[row[:, None], entry.place])
    return replace(prompt, images=images, columns=prompt.columns.left(cut), entry=entry, cut=cut)


def _left_positions(prompt: Prompt, counted: Tensor, real: Tensor) -> tuple[Tensor, Tensor | None]:
    """(A, B, M) position ids of what stays, and what renumbering takes off those that follow."""
    cut, entry, memory = prompt.cut, prompt.entry, prompt.memory
    if not memory.renumbered:
        where = at(prompt.images.row, entry.place, entry.tokens.valid)
        return of_left(counted, cut.order, entry.tokens, prompt.images.patches, where), None
    lost = real.sum(1) > cut.valid.sum(1)
    position = renumbered(counted, cut.order, cut.valid, lost)
    return position, memory.following - last(position, cut.valid) - 1
