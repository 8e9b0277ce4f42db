"""Later calls on the cache of a compressed prompt: decoding, and the next turn of a conversation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.hosts.flow import Flow, Memory, Stage
from foveate.hosts.positions import causal_mask, layer_type, rotary_embeddings


def call(kwargs: dict[str, Any], memory: Memory, cache: Any, flow: Flow) -> None:
    """Rewrite a call, made in the columns its caller knows, for the columns the cache holds."""
    name = "input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"
    fed = kwargs[name].shape[1]
    seen = int(cache.get_seq_length()) - memory.length
    new = _new_columns(fed, seen, memory, kwargs)
    flow.fed = fed
    kwargs[name] = kwargs[name][:, fed - new :]
    position = kwargs.get("position_ids")
    if position is not None:
        kwargs["position_ids"] = position = position[..., fed - new :]
    if memory.length == memory.outside:
        return
    if position is None:
        ahead = torch.arange(seen, seen + new, device=memory.following.device)
        position = memory.following[:, None] + ahead
    kwargs["position_ids"] = position if memory.shift is None else position - memory.shift[:, None]
    kwargs["attention_mask"] = _mask(memory, kwargs.get("attention_mask"), seen + new, new)


def _new_columns(fed: int, seen: int, memory: Memory, kwargs: dict[str, Any]) -> int:
    """How many of the columns fed are new: a caller may cut the conversation at the cache's length.

    Raises ValueError if they cannot be told.
    """
    position, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    new = fed
    if fed > 1 and position is not None:
        new = int(position[0, -1]) + 1 - int(memory.following[0]) - seen
    elif fed > 1 and _flat(mask):
        new = mask.shape[1] - memory.outside - seen
    if not 0 < new <= fed:
        raise ValueError(
            f"{fed} columns for a cache of {memory.outside} prompt and {seen} later columns: "
            "pass the whole conversation, or only what is new with its position_ids"
        )
    return new


def _flat(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.dim() == 2


def _mask(memory: Memory, mask: Any, grown: int, new: int) -> Tensor | None:
    """(B, length + grown) the cache's columns and those behind them; None if plainly all are real."""
    if memory.real is None and not _flat(mask) and new == 1:
        return None
    shape = len(memory.following), grown
    device = memory.following.device
    tail = torch.ones(shape, dtype=torch.bool, device=device)
    if _flat(mask):
        tail = mask[:, memory.outside :].bool()
    real = tail.new_ones(len(tail), memory.length) if memory.real is None else memory.real
    return torch.cat([real, tail], dim=1).long()


def view(flow: Flow, memory: Memory, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
    """Give a layer above a cut what fits its cache: the model's own mask fits another layer's."""
    reached = [k for k in memory.stages if k <= layer]
    if not reached:
        return
    stage, cache = memory.stages[max(reached)], kwargs["past_key_values"]
    key = (max(reached), layer_type(flow.decoder, layer))
    if key not in flow.later:
        mask = _layer_mask(flow, stage, layer, hidden, kwargs.get("attention_mask"), cache)
        rotary = kwargs["position_embeddings"]
        if flow.renumber:
            position = kwargs["position_ids"] - stage.dropped[:, None]
            rotary = rotary_embeddings(flow.decoder, layer, hidden, position)
        flow.later[key] = mask, rotary
    kwargs["attention_mask"], kwargs["position_embeddings"] = flow.later[key]


def _layer_mask(
    flow: Flow, stage: Stage, layer: int, hidden: Tensor, mask: Any, cache: Any
) -> Tensor | None:
    new = hidden.shape[1]
    static = getattr(cache, "is_compileable", False)
    if stage.full and mask is None:
        return causal_mask(flow.decoder, layer, hidden, None, cache) if new > 1 or static else None
    grown = int(cache.get_seq_length(layer)) + new - stage.columns.shape[1]
    tail = torch.ones(len(stage.real), grown, dtype=torch.bool, device=hidden.device)
    if _flat(mask):
        tail = mask[:, mask.shape[1] - grown :].bool()
    real = torch.cat([stage.real, tail], dim=1)
    return causal_mask(flow.decoder, layer, hidden, real, cache)
