"""Before the language model: compressors on, and the columns of dropped tokens out of the prompt."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from foveate.core.compressor import Compressor, Tower
from foveate.core.tokens import VisualTokens
from foveate.hosts import asked, context, encode, rows, samples, traits
from foveate.hosts.flow import Flow, Memory
from foveate.hosts.positions import Cut, renumbered


def prefill(
    base: nn.Module,
    kwargs: dict[str, Any],
    parts: list[Compressor],
    flow: Flow,
    outputs: dict[str, Any],
) -> None:
    """Compress the images and videos of a prompt and rewrite `kwargs` for the shorter one.

    outputs: what the model's feature functions gave, by modality.
    """
    ids = kwargs["input_ids"]
    copies = _copies(ids, outputs)
    encoded = {modality: output[encode.KEY] for modality, output in outputs.items()}
    _check_encoded(encoded, parts)
    seen = rows.of_prompts(base, ids[::copies], encoded)
    kwargs["mm_encoder_outputs"] = {**(kwargs.get("mm_encoder_outputs") or {}), **outputs}
    flow.prefill = len(seen.prompt) > 0
    if not flow.prefill:  # pixels that hold no image
        return
    flow.images, flow.prompt = len(seen.prompt), seen.prompt * copies
    flow.grid, flow.overview = seen.grid, seen.overview
    everyone = [*parts, *(part for inside in flow.inside.values() for part in inside)]
    needs = frozenset().union(*(part.needs for part in everyone))
    asked.read(base, kwargs, flow, encoded, needs, copies)
    asked.refuse_unseen(seen.column.amax(1), seen.prompt, flow, asked.required(everyone))
    if base.training and "generator" in needs:
        flow.samples = samples.of_rows(base, kwargs, seen, flow.pixels)
    flow.pixels.clear()
    tokens = compress_images(base, seen, parts, flow)
    flow.penalty = flow.penalty + tokens.penalty
    seen.tokens = tokens
    seen = seen.repeated(copies)
    _repeat(flow, seen, copies)
    place(base, kwargs, flow, seen, closed=flow.closed or not parts)
    for modality, output in outputs.items():
        mine = torch.arange(len(flow.prompt), device=flow.prompt.device) % flow.images
        mine = (mine < seen.images) == (modality == "image")
        kwargs["mm_encoder_outputs"][modality] = _output(output, flow, seen.deep, mine)


def _check_encoded(encoded: dict[str, encode.Encoded], parts: list[Compressor]) -> None:
    needs = encode.of_tower(parts)
    early = any(part.site.tower < Tower.language for part in parts)
    for modality, one in encoded.items():
        if needs - one.needs or one.projected == early:
            raise ValueError(
                f"these {modality}s were encoded while another method was attached: call "
                f"get_{modality}_features again"
            )


def _copies(ids: Tensor, outputs: dict[str, Any]) -> int:
    """How often each prompt stands there, one behind the other: generate repeats prompts for beams."""
    found = set()
    for modality, output in outputs.items():
        units, now = len(output[encode.KEY].units), len(output.pooler_output)
        if units and (now % units or len(ids) % (now // units)):
            raise ValueError(
                f"{now} encoded {modality}s for {len(ids)} prompts, of {units} that were encoded: "
                "images and prompts must match"
            )
        if units:
            found.add(now // units)
    if len(found) > 1:
        raise ValueError(f"images and videos are repeated {sorted(found)} times: they must agree")
    return found.pop() if found else 1


def _repeat(flow: Flow, seen: rows.Rows, copies: int) -> None:
    """Let the flow speak of all copies of the prompts."""
    flow.tokens, flow.prompt, flow.newlines = seen.tokens, seen.prompt, seen.newlines
    flow.grid, flow.overview = seen.grid, seen.overview
    if flow.text is not None and copies > 1:
        flow.text, flow.text_mask = flow.text.repeat(copies, 1, 1), flow.text_mask.repeat(copies, 1)


def compress_images(
    base: nn.Module, seen: rows.Rows, parts: list[Compressor], flow: Flow
) -> VisualTokens:
    """The tokens after every compressor up to language 0, and after the projector."""
    known = {**seen.fields, **flow.known()}
    tokens, projected = seen.tokens, seen.projected

    def project() -> VisualTokens:
        return tokens.carry(traits.projector_of(base)[0](tokens.x))

    for part in parts:
        if not projected and part.site.tower == Tower.language:
            tokens, projected = project(), True
        tokens = context.apply(part, tokens, known, flow)
        projected = projected or part.site.tower == Tower.projector
    if not seen.projected and seen.newlines is not None:
        vector = base.image_newline.to(seen.newlines.x.device)
        seen.newlines.x = vector.expand(*seen.newlines.x.shape[:2], -1)
    return tokens if projected else project()


def _output(output: Any, flow: Flow, deep: list[Tensor], mine: Tensor) -> Any:
    """A feature function's output with what is left, in the order of the prompts. mine (I,) its rows."""
    tokens, place = flow.tokens, flow.place
    keep = tokens.valid & mine[:, None]
    vectors, column = [tokens.x[keep]], [_flat(flow, place)[keep]]
    if (newlines := flow.newlines) is not None:
        left = (newlines.column >= 0) & mine[:, None]
        vectors.append(newlines.x[left].to(tokens.x.dtype))
        column.append(_flat(flow, newlines.column)[left])
    # A copy: without a cache, generate hands the same encoded images to every step.
    output = copy.copy(output)
    order = torch.cat(column).argsort()
    x = torch.cat(vectors)[order]
    # A tensor stays one, of units of one token: any number of them divides into whole units.
    output.pooler_output = x[:, None] if isinstance(output.pooler_output, Tensor) else [x]
    if deep:
        output.deepstack_features = [[tokens.mean(layer)[keep][order]] for layer in deep]
    return output


def _flat(flow: Flow, column: Tensor) -> Tensor:
    return flow.prompt[:, None] * flow.real.shape[1] + column


def counted_positions(base: nn.Module, kwargs: dict[str, Any], real: Tensor) -> Tensor | None:
    """(A, B, S) position ids of a prompt as the model would count them, on A axes; None: columns.

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


def place(
    base: nn.Module, kwargs: dict[str, Any], flow: Flow, seen: rows.Rows, closed: bool
) -> None:
    """Say where the kept tokens stand, and drop the columns of the others. closed: newlines may stay."""
    ids, tokens, column = kwargs["input_ids"], flow.tokens, seen.column
    B, S = ids.shape
    counted = counted_positions(base, kwargs, flow.real)
    if counted is None:  # models count columns then, whatever the padding
        first = traits.first_position(base)
        counted = torch.arange(first, first + S, device=ids.device).expand(1, B, S)
        following = torch.full((B,), first + S, device=ids.device)
    else:
        following = torch.where(flow.real, counted, -1).amax((0, 2)) + 1
    row = flow.prompt[:, None]
    flow.patches = counted[:, row, column.clamp(min=0)]
    flow.place = column.gather(1, tokens.anchor.clamp(max=max(column.shape[1] - 1, 0)))
    keep = ~traits.is_visual(base, ids)
    keep[row.expand_as(flow.place)[tokens.valid], flow.place[tokens.valid]] = True
    if (newlines := flow.newlines) is not None:
        alive = newlines.alive(tokens) & closed
        newlines.column = newlines.column.masked_fill(~alive, -1)
        keep[row.expand_as(alive)[alive], newlines.column[alive]] = True
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
    """The same call on the columns that stay. keep (B, S), counted (A, B, S), following (B,)."""
    real, newlines = flow.real, flow.newlines
    if hidden := int((keep & traits.is_visual(base, kwargs["input_ids"]) & ~real).sum()):
        raise ValueError(
            f"the attention_mask hides {hidden} placeholders of visual tokens that were kept"
        )
    flow.cut = cut = Cut.keeping(keep & real, pad_right=bool((~real[:, -1]).any()))
    row = flow.prompt[:, None]
    flow.place = cut.back[row, flow.place]
    if newlines is not None:
        now = cut.back[row, newlines.column.clamp(min=0)]
        newlines.column = torch.where(newlines.column < 0, -1, now)
    lost = real.sum(1) > cut.valid.sum(1)
    position, shift = _positions(flow, cut, counted, following, lost)
    contiguous = (cut.valid.long().cumsum(1) - 1).clamp(min=0)
    # Of four axes, the first is what masks are made of: without gaps.
    kwargs["position_ids"] = (
        position[0] if len(position) == 1 else torch.cat([contiguous[None], position])
    )
    kwargs["input_ids"] = cut.take(kwargs["input_ids"], fill=traits.padding_id(base))
    for name in (name for name in kwargs if name.endswith("token_type_ids")):
        if kwargs[name] is not None:  # generate with an assistant leaves its guesses out of them
            missing = real.shape[1] - kwargs[name].shape[1]
            kwargs[name] = cut.take(torch.nn.functional.pad(kwargs[name], (0, missing)), fill=0)
    padded = not bool(cut.valid.all())
    # Without mask and cache, gapped positions would be taken for packed sequences.
    kwargs["attention_mask"] = cut.valid.long() if padded or not cached else None
    flow.instruction = cut.take(flow.instruction, fill=False)
    flow.asking = cut.take(flow.asking, fill=False)
    flow.real = cut.valid
    remembered = cut.valid if padded else None
    flow.memory = Memory(
        real.shape[1], cut.order.shape[1], remembered, following, shift, flow.renumber
    )


def _positions(
    flow: Flow, cut: Cut, counted: Tensor, following: Tensor, lost: Tensor
) -> tuple[Tensor, Tensor | None]:
    """(A, B, M) position ids of what stays, and what renumbering takes off those that follow."""
    tokens, place = flow.tokens, flow.place
    if flow.renumber:
        position = renumbered(torch.stack([cut.take(ids) for ids in counted]), cut.valid, lost)
        shift = following - torch.where(cut.valid, position, -1).amax((0, 2)) - 1
        return position, shift
    flow.gapped = True
    where = flow.prompt[:, None].expand_as(place)[tokens.valid], place[tokens.valid]
    axes = []
    for ids, patches in zip(counted, flow.patches, strict=True):
        axis = cut.take(ids)
        axis[where] = tokens.mean(patches)[tokens.valid]
        axes.append(axis)
    return torch.stack(axes), None


def ready_cache(base: nn.Module, kwargs: dict[str, Any]) -> Any:
    """The cache this call will fill: given, or made now as the model itself would; None without one."""
    decoder = traits.decoder_of(base)
    use = kwargs.get("use_cache")
    use = getattr(decoder.config, "use_cache", False) if use is None else use
    checkpointing = getattr(decoder, "gradient_checkpointing", False) and base.training
    if kwargs.get("past_key_values") is None and use and not checkpointing:
        kwargs["past_key_values"] = DynamicCache(config=decoder.config)
    return kwargs.get("past_key_values")
