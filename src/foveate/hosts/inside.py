"""Inside the language model: the sequence gets shorter before decoder layer K, and stays so.

Works from pre-hooks on the decoder layers alone. At layer K the hidden states are gathered once; later
layers get the short view of rotary embeddings and mask, made once per stage. Running a hook again (as
gradient checkpointing of some versions does) gives the same result again.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from foveate.hosts.before import apply
from foveate.hosts.flow import Flow, Memory, Stage
from foveate.hosts.positions import Cut, gather_columns, short_attention
from foveate.tokens import VisualTokens


def shorten(flow: Flow, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """Run the compressors before decoder layer `layer` and return what is left of hidden (B, S', D)."""
    before = flow.stage(layer - 1)
    tokens, place, real = _tokens_before(flow, layer, before, hidden)
    came = tokens
    attended = flow.scores.get(layer - 1)
    for part in flow.inside[layer]:
        tokens = apply(part, tokens, _known(flow, came, tokens, place, attended), flow, came)
    flow.penalty = flow.penalty + tokens.penalty
    row = flow.prompt[:, None]
    if bool((tokens.counts == came.counts).all()):
        if tokens.x is not came.x:
            hidden = _put(hidden, row, place, came.valid, tokens.x)
        return hidden

    # A new token stands where the token that carried its first patch stood.
    anchor = tokens.anchor.clamp(max=came.owner.shape[1] - 1)
    stands = place.gather(1, came.owner.gather(1, anchor).clamp(min=0))
    keep = real.clone()
    keep[row.expand_as(place)[came.valid], place[came.valid]] = False
    keep[row.expand_as(stands)[tokens.valid], stands[tokens.valid]] = True
    cut = Cut.keeping(keep, pad_right=bool((~real[:, -1]).any()))
    stands = cut.back[row, stands]
    stage = _stage(flow, before, cut, tokens, stands, kwargs)
    flow.stages[layer] = stage
    flow.landed[layer] = (tokens.carry(tokens.x.detach()[..., :0]), stands)
    if flow.memory is not None:
        flow.memory.stages[layer] = stage
    return _put(cut.take(hidden), row, stands, tokens.valid, tokens.x)


def _tokens_before(
    flow: Flow, layer: int, before: Stage | None, hidden: Tensor
) -> tuple[VisualTokens, Tensor, Tensor]:
    """Visual tokens as they reach `layer`, their columns (I, N), and which columns are real."""
    landed = [k for k in flow.landed if k < layer]
    tokens, place = flow.landed[max(landed)] if landed else (flow.tokens, flow.place)
    x = hidden[flow.prompt[:, None], place].masked_fill(~tokens.valid[..., None], 0)
    real = flow.real if before is None else before.real
    return VisualTokens(x, tokens.owner, tokens.valid), place, real


def _known(
    flow: Flow, came: VisualTokens, now: VisualTokens, place: Tensor, attended: Any
) -> dict[str, Any]:
    """The context fields that exist inside, for the tokens as they are now."""
    known: dict[str, Any] = {"grid": flow.grid}
    if flow.text is not None:
        known |= {"text": flow.text, "text_mask": flow.text_mask}
    if attended is None:
        return known
    for name, score in zip(("last_attention", "prompt_attention"), attended, strict=True):
        arrived = score[flow.prompt[:, None], place].masked_fill(~came.valid, 0)
        if (
            now is not came
        ):  # an earlier link at this site merged or dropped: sum over what it carries
            share = arrived / came.size.clamp(min=1)
            spread = share.gather(1, came.owner.clamp(min=0)).masked_fill(came.owner < 0, 0)
            arrived = now.total(spread)
        known[name] = arrived
    return known


def _put(hidden: Tensor, row: Tensor, place: Tensor, valid: Tensor, x: Tensor) -> Tensor:
    """hidden with the vectors x (I, N, D) at their places."""
    index = row.expand_as(place)[valid], place[valid]
    return hidden.index_put(index, x[valid].to(hidden.dtype))


def _stage(
    flow: Flow,
    before: Stage | None,
    cut: Cut,
    tokens: VisualTokens,
    stands: Tensor,
    kwargs: dict[str, Any],
) -> Stage:
    columns = cut.order if before is None else before.columns.gather(1, cut.order)
    back = cut.back if before is None else cut.back.gather(1, before.back)
    entered = flow.real.sum(1)
    position = None
    if flow.renumber or bool((tokens.size > 1).any()):
        position = _positions(flow, columns, cut.valid, tokens, stands, kwargs["position_ids"])
    dropped = entered - cut.valid.sum(1)
    return Stage(cut, columns, back, cut.valid, bool(cut.valid.all()), position, dropped)


def _positions(
    flow: Flow, columns: Tensor, real: Tensor, tokens: VisualTokens, stands: Tensor, ids: Tensor
) -> Tensor:
    """(B, M) position ids after a merge: the floor of the mean over what a token carries; or renumbered."""
    entered = ids.expand(len(columns), -1)
    if flow.renumber:
        start = torch.where(flow.real, entered, entered.amax()).amin(1, keepdim=True)
        return start + (real.long().cumsum(1) - 1).clamp(min=0)
    position = entered.gather(1, columns)
    row = flow.prompt[:, None].expand_as(stands)
    position[row[tokens.valid], stands[tokens.valid]] = tokens.mean(flow.patches)[tokens.valid]
    return position


def view(flow: Flow, stage: Stage, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
    """Give a layer of the prefill the short view of what its model prepared for the full sequence."""
    rotary = kwargs["position_embeddings"]
    kwargs["position_embeddings"] = _once(
        stage, rotary, lambda: _rotary(flow, stage, layer, hidden, rotary)
    )
    mask = kwargs.get("attention_mask")
    kind = _layer_type(flow.decoder, layer)
    cache = kwargs.get("past_key_values")
    kwargs["attention_mask"] = _once(
        stage,
        mask if mask is not None else kind,
        lambda: _mask(flow, stage, layer, hidden, mask, cache),
    )


def view_later(
    flow: Flow, memory: Memory, layer: int, hidden: Tensor, kwargs: dict[str, Any]
) -> None:
    """The same for a later call on the cache: the model's own mask has the width of another layer."""
    reached = [k for k in memory.stages if k <= layer]
    if not reached:
        return
    stage = memory.stages[max(reached)]
    cache = kwargs["past_key_values"]
    key = (max(reached), _layer_type(flow.decoder, layer))
    if key not in flow.later:
        flow.later[key] = _later_mask(
            flow, stage, layer, hidden, kwargs.get("attention_mask"), cache
        )
    kwargs["attention_mask"] = flow.later[key]
    if flow.renumber:
        key = (max(reached), id(kwargs["position_embeddings"]))
        if key not in flow.later:
            position = kwargs["position_ids"] - stage.dropped[:, None]
            flow.later[key] = rotary_embeddings(flow.decoder, layer, hidden, position)
        kwargs["position_embeddings"] = flow.later[key]


def _later_mask(
    flow: Flow, stage: Stage, layer: int, hidden: Tensor, mask: Any, cache: Any
) -> Tensor | None:
    decoder, new = flow.decoder, hidden.shape[1]
    if stage.full and mask is None and new == 1 and not getattr(cache, "is_compileable", False):
        return None
    if stage.full and mask is None:
        return _causal(decoder, layer, hidden, None, cache)
    tail = int(cache.get_seq_length(layer)) + new - stage.columns.shape[1]
    grown = torch.ones(len(stage.real), tail, dtype=torch.bool, device=hidden.device)
    if isinstance(mask, Tensor) and mask.dim() == 2:
        grown = mask[:, mask.shape[1] - tail :].bool()
    return _causal(decoder, layer, hidden, torch.cat([stage.real, grown], dim=1), cache)


def _rotary(flow: Flow, stage: Stage, layer: int, hidden: Tensor, rotary: Any) -> Any:
    if stage.position is not None:
        return rotary_embeddings(flow.decoder, layer, hidden, stage.position)
    return tuple(gather_columns(part, stage.columns) for part in rotary)


def rotary_embeddings(decoder: nn.Module, layer: int, hidden: Tensor, position: Tensor) -> Any:
    """The decoder's rotary embeddings at these position ids, of this layer's type where types differ."""
    own = decoder.rotary_emb
    if "layer_type" in inspect.signature(own.forward).parameters:
        return own(hidden, position, layer_type=_layer_type(decoder, layer))
    return own(hidden, position)


def _mask(
    flow: Flow, stage: Stage, layer: int, hidden: Tensor, mask: Any, cache: Any
) -> Tensor | None:
    if mask is None:
        return None if stage.full else _causal(flow.decoder, layer, hidden, stage.real, cache)
    if mask.dim() == 2:
        return gather_columns(mask, stage.columns) * stage.real
    if cache is not None and getattr(cache, "is_compileable", False):
        return _causal(flow.decoder, layer, hidden, stage.real, cache)
    return short_attention(mask, stage.columns, stage.real)


def _causal(
    decoder: nn.Module, layer: int, hidden: Tensor, real: Tensor | None, cache: Any
) -> Tensor | None:
    sliding = _layer_type(decoder, layer) == "sliding_attention"
    make = create_sliding_window_causal_mask if sliding else create_causal_mask
    return make(decoder.config, hidden, real, cache, None, layer_idx=layer)


def _layer_type(decoder: nn.Module, layer: int) -> str:
    types = getattr(decoder.config, "layer_types", None)
    return types[layer] if types else "full_attention"


def _once(stage: Stage, of: Any, make: Any) -> Any:
    """What `make` makes of an object the model prepared, once per stage. Keeps the object: ids stay good."""
    key = id(of) if not isinstance(of, str) else of
    if key not in stage.views:
        stage.views[key] = (of, make())
    return stage.views[key][1]
