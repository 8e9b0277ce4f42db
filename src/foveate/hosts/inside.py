"""Inside the language model: the sequence gets shorter before decoder layer K, and stays so.

Works from pre-hooks on the decoder layers alone. At layer K the hidden states are gathered once; later
layers get the short view of rotary embeddings and mask, made once per stage. Running a hook again (as
gradient checkpointing of some versions does) gives the same result again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveate.core.tokens import VisualTokens
from foveate.hosts.context import apply
from foveate.hosts.flow import Flow, Stage
from foveate.hosts.positions import (
    Cut,
    causal_mask,
    gather_columns,
    gather_rotary,
    layer_type,
    refuse_window,
    renumbered,
    rotary_embeddings,
    short_attention,
)


def shorten(flow: Flow, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """Run the compressors before decoder layer `layer`; what is left of hidden (B, S', D)."""
    before = flow.stage(layer - 1)
    real = flow.real if before is None else before.real
    came, place = _arriving(flow, layer, hidden)
    tokens = came
    for part in flow.inside[layer]:
        tokens = apply(part, tokens, _known(flow, layer, came, tokens, place), flow)
    flow.penalty = flow.penalty + tokens.penalty
    row, gone = flow.prompt[:, None], _newlines_leaving(flow, layer, came, tokens)
    if bool((tokens.counts == came.counts).all()) and gone is None:
        return hidden if tokens.x is came.x else _put(hidden, row, place, tokens)
    refuse_window(flow.decoder, flow.real.shape[1], kwargs.get("past_key_values"))

    # A new token stands where the token that carried its first patch stood.
    anchor = tokens.anchor.clamp(max=came.owner.shape[1] - 1)
    stands = place.gather(1, came.owner.gather(1, anchor).clamp(min=0))
    keep = real.clone()
    keep[row.expand_as(place)[came.valid], place[came.valid]] = False
    keep[row.expand_as(stands)[tokens.valid], stands[tokens.valid]] = True
    if gone is not None:
        column = flow.newlines.column.clamp(min=0)
        column = column if before is None else before.back[row, column]
        keep[row.expand_as(gone)[gone], column[gone]] = False
    cut = Cut.keeping(keep, pad_right=bool((~real[:, -1]).any()))
    stands = cut.back[row, stands]
    flow.stages[layer] = _stage(flow, before, cut, tokens, stands)
    flow.landed[layer] = tokens.carry(tokens.x.detach()[..., :0]), stands
    if flow.memory is not None:
        # Without the views: the cache need not keep masks of the prompt alive.
        flow.memory.stages[layer] = replace(flow.stages[layer], views={})
    return _put(cut.take(hidden), row, stands, tokens)


def _newlines_leaving(
    flow: Flow, layer: int, came: VisualTokens, left: VisualTokens
) -> Tensor | None:
    """(I, Q) which newlines leave here, all at the first layer if none may stay; None if none leave."""
    if (newlines := flow.newlines) is None:
        return None
    here = ~newlines.alive(left) if flow.closed else layer == min(flow.inside)
    gone = newlines.alive(came) & here
    return gone if bool(gone.any()) else None


def _arriving(flow: Flow, layer: int, hidden: Tensor) -> tuple[VisualTokens, Tensor]:
    """The visual tokens as they reach `layer`, and their columns (I, N)."""
    tokens, place = flow.landing(layer)
    x = hidden[flow.prompt[:, None], place].masked_fill(~tokens.valid[..., None], 0)
    return VisualTokens(x, tokens.owner, tokens.valid), place


def _known(
    flow: Flow, layer: int, came: VisualTokens, now: VisualTokens, place: Tensor
) -> dict[str, Any]:
    """The context fields that exist inside, of the tokens as they are now."""
    known = flow.known()
    for name, score in zip(
        ("last_attention", "prompt_attention"), flow.scores.get(layer - 1, ()), strict=False
    ):
        arrived = score[flow.prompt[:, None], place].masked_fill(~came.valid, 0)
        if (
            now is not came
        ):  # an earlier link at this site dropped or merged: sum over what it carries
            share = (arrived / came.size.clamp(min=1)).gather(1, came.owner.clamp(min=0))
            arrived = now.total(share.masked_fill(came.owner < 0, 0))
        known[name] = arrived
    return known


def _put(hidden: Tensor, row: Tensor, place: Tensor, tokens: VisualTokens) -> Tensor:
    """hidden with the tokens' vectors at their places (I, N)."""
    index = row.expand_as(place)[tokens.valid], place[tokens.valid]
    return hidden.index_put(index, tokens.x[tokens.valid].to(hidden.dtype))


def _stage(
    flow: Flow, before: Stage | None, cut: Cut, tokens: VisualTokens, stands: Tensor
) -> Stage:
    columns = cut.order if before is None else before.columns.gather(1, cut.order)
    back = cut.back if before is None else cut.back.gather(1, before.back)
    moved = flow.renumber or bool((tokens.size > 1).any())
    position = _positions(flow, columns, cut.valid, tokens, stands) if moved else None
    shift = None
    if flow.renumber:
        ends = [
            torch.where(r, p, -1).amax((0, 2))
            for r, p in ((flow.real, flow.position), (cut.valid, position))
        ]
        shift = ends[0] - ends[1]
    return Stage(columns, back, cut.valid, bool(cut.valid.all()), position, shift)


def _positions(
    flow: Flow, columns: Tensor, real: Tensor, tokens: VisualTokens, stands: Tensor
) -> Tensor:
    """(A, B, M) position ids: renumbered, or of merged tokens the floor of the mean of what they carry."""
    entered = flow.position
    if flow.renumber:
        position = torch.stack([ids.gather(1, columns) for ids in entered])
        return renumbered(position, real, flow.real.sum(1) > real.sum(1))
    row, axes = flow.prompt[:, None].expand_as(stands), []
    for ids, patches in zip(entered, flow.patches, strict=True):
        axis = ids.gather(1, columns)
        axis[row[tokens.valid], stands[tokens.valid]] = tokens.mean(patches)[tokens.valid]
        axes.append(axis)
    return torch.stack(axes)


def deep_features(flow: Flow, visual: Tensor, deep: list[Tensor]) -> list[Tensor]:
    """(I, P, D) by layer: what each patch's token gets added. visual (B, S), deep (tokens, D) by layer."""
    rank = (visual.flatten().long().cumsum(0) - 1).reshape(visual.shape)
    token = rank[flow.prompt[:, None], flow.place]
    patch = token.gather(1, flow.tokens.owner.clamp(min=0)).clamp(min=0)
    return [layer[patch] for layer in deep]


def deepen(flow: Flow, layer: int, hidden: Tensor) -> Tensor:
    """hidden (B, S', D) plus what the model adds to visual tokens after decoder layer `layer` - 1."""
    tokens, place = flow.landing(layer)
    added = tokens.mean(flow.deep[layer - 1]).to(hidden.dtype)
    row = flow.prompt[:, None].expand_as(place)
    index = row[tokens.valid], place[tokens.valid]
    return hidden.index_put(index, hidden[index] + added[tokens.valid])


def view(flow: Flow, stage: Stage, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
    """Give a layer the short view of what its model prepared for the whole sequence."""
    rotary, mask = kwargs["position_embeddings"], kwargs.get("attention_mask")
    kwargs["position_embeddings"] = _once(
        stage, rotary, lambda: _rotary(flow, stage, layer, hidden, rotary)
    )
    kwargs["attention_mask"] = _once(
        stage,
        layer_type(flow.decoder, layer) if mask is None else mask,
        lambda: _mask(flow, stage, layer, hidden, mask, kwargs.get("past_key_values")),
    )


def _rotary(flow: Flow, stage: Stage, layer: int, hidden: Tensor, rotary: Any) -> Any:
    if stage.position is not None:
        return rotary_embeddings(flow.decoder, layer, hidden, stage.position)
    return tuple(gather_rotary(part, stage.columns) for part in rotary)


def _mask(
    flow: Flow, stage: Stage, layer: int, hidden: Tensor, mask: Any, cache: Any
) -> Tensor | None:
    if mask is None and stage.full:
        return None
    static = getattr(cache, "is_compileable", False)
    if mask is None:
        return causal_mask(flow.decoder, layer, hidden, stage.real, cache)
    if mask.dim() == 2:
        return gather_columns(mask, stage.columns) * stage.real
    return short_attention(mask, stage.columns, stage.real, static)


def _once(stage: Stage, of: Any, make: Callable[[], Any]) -> Any:
    """What `make` makes of something the model prepared, once per stage; `of` is kept, so its id is too."""
    key = of if isinstance(of, str) else id(of)
    if key not in stage.views:
        stage.views[key] = (of, make())
    return stage.views[key][1]
