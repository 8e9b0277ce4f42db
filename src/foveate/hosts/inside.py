"""Inside the language model: the sequence gets shorter before decoder layer K, and stays so.

Works from pre-hooks on the decoder layers alone. At layer K the hidden states are gathered once; later
layers get the short view of rotary embeddings and mask, made once per stage. Running a hook again (as
gradient checkpointing of some versions does) gives the same result again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveate.core.ops import pick
from foveate.core.tokens import VisualTokens
from foveate.hosts import prompted
from foveate.hosts.context import apply
from foveate.hosts.flow import Landing, Path, Prompt, Stage
from foveate.hosts.positions import (
    Cut,
    at,
    causal_mask,
    gather_rotary,
    last,
    layer_type,
    of_left,
    refuse_window,
    renumbered,
    rotary_embeddings,
    short_attention,
)
from foveate.hosts.proportional import weigh, weight_of


@torch.compiler.disable
def shorten(
    prompt: Prompt, path: Path, layer: int, hidden: Tensor, cache: Any
) -> tuple[Tensor, Landing]:
    """What the compressors before decoder layer `layer` leave of hidden (B, S', D), and a note of it."""
    before, place = path.stage(layer - 1), path.landing(layer).place
    real = prompt.columns.real if before is None else before.real
    row, came = prompt.images.row, _arriving(prompt, path, layer, hidden)
    tokens, steps = came, []
    for part in prompt.inside[layer]:
        own = prompted.known(prompt, path, layer, part, hidden, came, tokens)
        known = {**prompt.images.known, **own}
        width = tokens.x.shape[-1]
        merges = prompt.switches.merges
        tokens, step = apply(part, tokens, known, prompt.draws, width, prompt.traced, merges)
        steps.append(step)
    gone = _newlines_leaving(prompt, layer, came, tokens)
    if bool((tokens.counts == came.counts).all()) and gone is None:
        hidden = hidden if tokens.x is came.x else _put(hidden, row, place, tokens)
        return hidden, replace(path.landing(layer), stage=None, penalty=tokens.penalty, steps=steps)
    refuse_window(prompt.decoder, prompt.columns.real.shape[1], cache)

    # A new token stands where the token that carried its first patch stood.
    stands = place.gather(1, tokens.of_first(came.owner).clamp(min=0))
    keep = real.clone()
    keep[at(row, place, came.valid)] = False
    keep[at(row, stands, tokens.valid)] = True
    if gone is not None:
        column = prompt.images.newlines.column.clamp(min=0)
        column = column if before is None else before.back[row[:, None], column]
        keep[at(row, column, gone)] = False
    cut = Cut.keeping(keep, pad_right=bool((~real[:, -1]).any()))
    stands = cut.back[row[:, None], stands]
    stage = _stage(prompt, path, before, cut, tokens, stands)
    landing = Landing.of(tokens, stands, steps, stage)
    return _put(cut.take(hidden), row, stands, tokens), landing


def _newlines_leaving(
    prompt: Prompt, layer: int, came: VisualTokens, left: VisualTokens
) -> Tensor | None:
    """(I, Q) which newlines leave here, all at the first layer if none may stay; None if none leave."""
    if (newlines := prompt.images.newlines) is None:
        return None
    closed = prompt.switches.newlines == "rows"
    here = ~newlines.alive(left) if closed else layer == min(prompt.inside)
    gone = newlines.alive(came) & here
    return gone if bool(gone.any()) else None


def _arriving(prompt: Prompt, path: Path, layer: int, hidden: Tensor) -> VisualTokens:
    """The visual tokens as they reach `layer`."""
    landing = path.landing(layer)
    tokens, x = landing.tokens, hidden[prompt.images.row[:, None], landing.place]
    return VisualTokens(x.masked_fill(~tokens.valid[..., None], 0), tokens.owner, tokens.valid)


def _put(hidden: Tensor, row: Tensor, place: Tensor, tokens: VisualTokens) -> Tensor:
    """hidden with the tokens' vectors at their places (I, N)."""
    index = at(row, place, tokens.valid)
    return hidden.index_put(index, tokens.x[tokens.valid].to(hidden.dtype))


def _stage(
    prompt: Prompt,
    path: Path,
    before: Stage | None,
    cut: Cut,
    tokens: VisualTokens,
    stands: Tensor,
) -> Stage:
    columns = cut.order if before is None else before.columns.gather(1, cut.order)
    back = cut.back if before is None else cut.back.gather(1, before.back)
    entered, real, left = path.position, prompt.columns.real, cut.valid
    position = shift = None
    if prompt.memory.renumbered:
        position = renumbered(entered, columns, left, real.sum(1) > left.sum(1))
        shift = last(entered, real) - last(position, left)
    elif bool((tokens.size > 1).any()):
        where = at(prompt.images.row, stands, tokens.valid)
        position = of_left(entered, columns, tokens, prompt.images.patches, where)
    weight = None
    if prompt.switches.proportional:
        weight = weight_of(tokens, prompt.images.row, stands, left.shape)
    return Stage(columns, back, left, bool(left.all()), position, shift, weight)


def deep_features(prompt: Prompt, visual: Tensor, deep: Sequence[Tensor]) -> list[Tensor]:
    """(I, P, D) by layer: what each patch's token gets added. visual (B, S), deep (tokens, D) by layer."""
    rank = (visual.flatten().long().cumsum(0) - 1).reshape(visual.shape)
    token = rank[prompt.images.row[:, None], prompt.entry.place]
    patch = token.gather(1, prompt.entry.tokens.owner.clamp(min=0)).clamp(min=0)
    return [layer[patch] for layer in deep]


def deepen(prompt: Prompt, landing: Landing, deep: Tensor, hidden: Tensor) -> Tensor:
    """hidden (B, S', D) plus what the model adds to visual tokens behind a layer. deep (I, P, D)."""
    tokens = landing.tokens
    added = tokens.mean(deep).to(hidden.dtype)
    index = at(prompt.images.row, landing.place, tokens.valid)
    return hidden.index_put(index, hidden[index] + added[tokens.valid])


def stretched(prompt: Prompt, path: Path, hidden: Tensor) -> Tensor:
    """What left the language model, (B, M, D), in the columns that the caller knows: (B, S, D)."""
    if (stage := path.stage(len(prompt.decoder.layers))) is not None:
        hidden = pick(hidden, stage.back)
    return hidden if prompt.cut is None else prompt.cut.stretch(hidden)


def view(
    prompt: Prompt,
    path: Path,
    stage: Stage | None,
    layer: int,
    hidden: Tensor,
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """A layer's arguments as its stage has them: short, and with what its columns weigh."""
    if stage is not None:
        kwargs = _short(prompt, stage, layer, hidden, kwargs)
    if (weight := prompt.memory.weight_in(stage)) is None:
        return kwargs
    mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
    of = layer_type(prompt.decoder, layer) if mask is None else mask
    views = path.masks.setdefault(id(weight), {})
    made = _once(views, of, lambda: weigh(mask, weight, hidden, 0, cache))
    return {**kwargs, "attention_mask": made}


def _short(
    prompt: Prompt, stage: Stage, layer: int, hidden: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """A layer's arguments with the short view of what its model prepared for the whole sequence."""
    rotary, mask = kwargs["position_embeddings"], kwargs.get("attention_mask")
    kind, cache = layer_type(prompt.decoder, layer), kwargs.get("past_key_values")
    return {
        **kwargs,
        "position_embeddings": _once(
            stage.views, rotary, lambda: _rotary(prompt, stage, layer, hidden, rotary)
        ),
        "attention_mask": _once(
            stage.views,
            kind if mask is None else mask,
            lambda: _mask(prompt, stage, layer, hidden, mask, cache),
        ),
    }


def _rotary(prompt: Prompt, stage: Stage, layer: int, hidden: Tensor, rotary: Any) -> Any:
    if stage.position is not None:
        return rotary_embeddings(prompt.decoder, layer, hidden, stage.position)
    return tuple(gather_rotary(part, stage.columns) for part in rotary)


def _mask(
    prompt: Prompt, stage: Stage, layer: int, hidden: Tensor, mask: Any, cache: Any
) -> Tensor | None:
    if mask is None and stage.full:
        return None
    static = getattr(cache, "is_compileable", False)
    if mask is None:
        return causal_mask(prompt.decoder, layer, hidden, stage.real, cache)
    if mask.dim() == 2:
        return pick(mask, stage.columns) * stage.real
    return short_attention(mask, stage.columns, stage.real, static)


def _once(views: dict[Any, tuple[Any, Any]], of: Any, make: Callable[[], Any]) -> Any:
    """What `make` makes of something the model prepared, once for all; `of` is kept, so its id is too."""
    key = of if isinstance(of, str) else id(of)
    if key not in views:
        views[key] = (of, make())
    return views[key][1]
