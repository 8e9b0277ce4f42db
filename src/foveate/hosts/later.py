"""Later calls on the cache of a compressed prompt: decoding, and the next turn of a conversation.

What the caller counts, and what the first layer's cache holds:

    [ prompt: `outside` columns ][ `seen` later columns ][ `new` columns of the `fed` ones ]
    [ `length` columns          ][ the same             ][ the same                        ]

The `tail` is everything behind the prompt: seen and new. Layers above a cut hold fewer prompt columns
still, and the same tail.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.hosts import traits
from foveate.hosts.flow import Later, Memory, Stage
from foveate.hosts.positions import (
    causal_mask,
    refuse_window,
    rotary_embeddings,
    window_of,
)
from foveate.hosts.proportional import weigh


def call(
    base: nn.Module, kwargs: dict[str, Any], memory: Memory, cache: Any
) -> tuple[dict[str, Any], Later]:
    """A call, made in the columns its caller knows, for the columns the cache holds.

    Raises NotImplementedError if the cache's rows are no longer those of the prompt.
    """
    name = "input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"
    rows, fed = kwargs[name].shape[:2]
    if rows != len(memory.following):
        raise NotImplementedError(
            f"{rows} rows on the cache of a compressed prompt with {len(memory.following)}: "
            "select or repeat prompts before the first call, not in its cache"
        )
    position, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
    seen = int(cache.get_seq_length()) - memory.length
    new = _new_columns(fed, seen, memory, position, mask)
    if mask is not None and not _static(cache) and bool(mask.all()):  # the model would wait for it
        kwargs, mask = {**kwargs, "attention_mask": None}, None
    tail = None if mask is None else mask[:, memory.outside :].bool()
    decoder = traits.decoder_of(base)
    plain = memory.real is None and mask is None and new == 1
    bare = plain and kwargs.get("attention_mask") is None
    now = Later(memory, decoder, fed, tail, bare and _same_above(memory, decoder, cache))
    kwargs = {**kwargs, name: kwargs[name][:, fed - new :]}
    if position is not None:
        kwargs["position_ids"] = position = position[..., fed - new :]
    if memory.length == memory.outside and memory.real is None:  # nothing was dropped
        return kwargs, now
    if position is None:
        ahead = torch.arange(seen, seen + new, device=memory.following.device)
        position = memory.following[:, None] + ahead
    kwargs["position_ids"] = position if memory.shift is None else position - memory.shift[:, None]
    if plain:
        kwargs["attention_mask"] = None  # plainly everything: no mask to make, none to wait for
        return kwargs, now
    real = memory.real
    if real is None:
        real = torch.ones(rows, memory.length, dtype=torch.bool, device=memory.following.device)
    kwargs["attention_mask"] = _with_tail(real, tail, seen + new).long()
    return kwargs, now


def _static(cache: Any) -> bool:
    return getattr(cache, "is_compileable", False)


def _same_above(memory: Memory, decoder: nn.Module, cache: Any) -> bool:
    """Whether one column behind full rows is the same to every layer: no mask, and where it stands.

    To layers that look back all the way.
    """
    if not memory.stages or memory.renumbered or memory.weight is not None or _static(cache):
        return False
    full = all(stage.full and stage.weight is None for stage in memory.stages.values())
    return full and decoder.config._attn_implementation == "sdpa"


def _new_columns(
    fed: int, seen: int, memory: Memory, position: Tensor | None, mask: Tensor | None
) -> int:
    """How many of the columns fed are new: a caller may cut the conversation at the cache's length.

    Raises ValueError if that cannot be told.
    """
    new = {fed}
    if fed > 1 and mask is not None:
        new = {mask.shape[1] - memory.outside - seen}
    elif fed > 1 and position is not None:
        ahead = position[-1] if position.dim() == 3 else position
        new = set((ahead[:, -1] + 1 - memory.following - seen).tolist())
    if len(new) > 1 or not 0 < min(new) <= fed:
        raise ValueError(
            f"{fed} columns for a cache of {memory.outside} prompt and {seen} later columns: pass the whole "
            "conversation or only what is new, with the attention_mask of all of it"
        )
    return new.pop()


def _with_tail(real: Tensor, tail: Tensor | None, columns: int) -> Tensor:
    """(B, prompt + columns) which columns are real; real (B, prompt)."""
    if tail is None:
        tail = torch.ones(len(real), columns, dtype=torch.bool, device=real.device)
    return torch.cat([real, tail.to(real.device)], dim=1)


def view(
    now: Later, layer: int, kind: str, hidden: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """What a layer's arguments are above a cut, where the model's own fit another layer's cache.

    kind: of its attention; layers of one kind share what is made here.

    Raises NotImplementedError once a conversation outgrows a sliding window that cannot be masked.
    """
    stage = now.memory.stage(layer)
    weight = now.memory.weight_in(stage)
    if stage is None and weight is None:
        return {}
    key = stage, kind
    if key not in now.views:
        seen = {} if stage is None else _view(now, stage, layer, hidden, kwargs)
        if weight is not None:
            mask, cache = {**kwargs, **seen}.get("attention_mask"), kwargs["past_key_values"]
            past = int(cache.get_seq_length(layer))
            seen["attention_mask"] = weigh(mask, weight, hidden, past, cache)
        now.views[key] = seen
    return now.views[key]


@torch.compiler.disable
def _view(
    now: Later, stage: Stage, layer: int, hidden: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    memory, cache, rotary = now.memory, kwargs["past_key_values"], kwargs["position_embeddings"]
    columns = int(cache.get_seq_length(layer)) + hidden.shape[1] - stage.columns.shape[1]
    refuse_window(now.decoder, memory.length + columns, cache)
    mask = _layer_mask(now, stage, layer, hidden, columns, cache)
    if memory.renumbered:
        position = now.position - stage.shift[:, None]
        rotary = rotary_embeddings(now.decoder, layer, hidden, position)
    return {"attention_mask": mask, "position_embeddings": rotary}


def _layer_mask(
    now: Later, stage: Stage, layer: int, hidden: Tensor, columns: int, cache: Any
) -> Tensor | None:
    new, static = hidden.shape[1], _static(cache)
    window = window_of(now.decoder, layer)
    if window is not None and now.memory.length + columns > window:
        return _window_mask(now, stage, layer, hidden, columns, cache)
    if stage.full and now.tail is None:
        return causal_mask(now.decoder, layer, hidden, None, cache) if new > 1 or static else None
    real = _with_tail(stage.real, now.tail, columns)
    return causal_mask(now.decoder, layer, hidden, real, cache)


def _window_mask(
    now: Later, stage: Stage, layer: int, hidden: Tensor, columns: int, cache: Any
) -> Tensor:
    """(B, 1, new, keys) of a layer that looks back so far in the language model's input columns."""
    length, new = now.memory.length, hidden.shape[1]
    tail = torch.arange(length, length + columns, device=hidden.device)
    stands = torch.cat([stage.columns, tail.expand(len(hidden), -1)], dim=1)[:, None]
    back = tail[-new:, None] - stands
    seen = (back >= 0) & (back < window_of(now.decoder, layer))
    seen = (seen & _with_tail(stage.real, now.tail, columns)[:, None])[:, None]
    keys = cache.layers[layer].keys.shape[-2] + new  # such a layer's cache holds the last ones only
    seen = seen[..., -keys:]
    if now.decoder.config._attn_implementation != "eager":
        return seen
    closed = torch.finfo(hidden.dtype).min
    return torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, closed)
