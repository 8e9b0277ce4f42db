"""Before the language model: compressors on the images of a prompt, and what is left of them back into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor, Site, Tower
from foveate.core.tokens import VisualTokens
from foveate.hosts import asked, context, drop, encode, rows, samples, traits, within
from foveate.hosts.attachment import Attachment
from foveate.hosts.flow import Call, Columns, Images, Landing, Memory, Prompt
from foveate.hosts.trace import Step

ENTRY = Site(Tower.language)  # the last place before the language model


@torch.compiler.disable  # what it does hangs on the data, all the way: one break instead of thirty
def prefill(
    base: nn.Module,
    kwargs: dict[str, Any],
    call: Call,
    attachment: Attachment,
    outputs: dict[str, Any],
    pixels: Mapping[str, Tensor],
) -> tuple[dict[str, Any], Prompt | None]:
    """Compress the images and videos of a prompt: the shorter call, and what is known of it.

    outputs, pixels: what the feature functions gave, and were given, by modality. Without an image no prompt.
    """
    parts, ids = attachment.acting(base), kwargs["input_ids"]
    early = [part for part in parts if part.site <= ENTRY]
    copies = _copies(ids, outputs)
    encoded = {modality: output[encode.KEY] for modality, output in outputs.items()}
    _check_encoded(encoded, early)
    seen = rows.of_prompts(base, ids[::copies], encoded)
    kwargs = {**kwargs, "mm_encoder_outputs": {**_given(kwargs), **outputs}}
    if not len(seen.prompt):
        return kwargs, None
    columns, words = asked.read(base, kwargs, call, seen, encoded, parts, copies)
    seen = replace(seen, known={**seen.known, **words})
    draws, traced = _draws(base, kwargs, attachment, seen, parts, pixels), bool(attachment.traces)
    switches = attachment.switches
    tokens, steps = compress_images(base, seen, early, draws, traced, switches.merges)
    left = replace(seen, tokens=tokens).repeated(copies)
    counted, following = drop.counted(base, kwargs, columns.real)
    closed, renumbered = switches.newlines == "rows", switches.positions == "renumbered"
    place, S = left.tokens.of_first(left.column), ids.shape[1]
    prompt = Prompt(
        decoder=traits.decoder_of(base),
        inside=_by_layer(parts),
        draws=draws,
        traced=traced,
        switches=switches,
        images=_images(left, len(seen.prompt), counted, closed or not early, columns),
        columns=columns,
        entry=Landing.of(left.tokens, place, steps),
        memory=Memory(S, S, following, renumbered),
    )
    kwargs, prompt = drop.out(base, kwargs, prompt, counted)
    given = {m: _output(m, output, left, prompt) for m, output in outputs.items()}
    return {**kwargs, "mm_encoder_outputs": {**_given(kwargs), **given}}, prompt


def _given(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs.get("mm_encoder_outputs") or {}


def _by_layer(parts: Sequence[Compressor]) -> dict[int, list[Compressor]]:
    """The compressors inside the language model."""
    layers = {part.site.layer for part in parts if part.site > ENTRY}
    return {layer: [p for p in parts if p.site == (Tower.language, layer)] for layer in layers}


def _draws(
    base: nn.Module,
    kwargs: Mapping[str, Any],
    attachment: Attachment,
    seen: rows.Rows,
    parts: Sequence[Compressor],
    pixels: Mapping[str, Tensor],
) -> samples.Draws:
    drawn = base.training and any("generator" in part.needs for part in parts)
    numbers = samples.of_rows(base, kwargs, seen, pixels) if drawn else ()
    return samples.Draws(base.training, attachment.step, numbers)


def _check_encoded(encoded: dict[str, encode.Encoded], parts: list[Compressor]) -> None:
    needs, early = encode.of_tower(parts), encode.before_projector(parts)
    for modality, one in encoded.items():
        if needs - one.needs or one.projected == early or one.within != within.of(parts):
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


def compress_images(
    base: nn.Module,
    seen: rows.Rows,
    parts: list[Compressor],
    draws: samples.Draws,
    traced: bool,
    merges: bool,
) -> tuple[VisualTokens, list[Step]]:
    """The tokens after every compressor up to language 0, and after the projector; a note of each."""
    tokens, projected, steps = seen.tokens, seen.projected, []
    known = {**seen.fields, **seen.known}
    if seen.carriers is not None:
        acted = within.of(parts)
        tokens, steps = within.left(tokens, seen.carriers, acted, known.get("grid"), traced)

    def project() -> VisualTokens:
        return tokens.carry(traits.projector_of(base)[0](tokens.x))

    for part in parts[len(within.of(parts)) :]:
        if not projected and part.site.tower == Tower.language:
            tokens, projected = project(), True
        connects = part.site.tower == Tower.projector
        width = traits.decoder_of(base).config.hidden_size if connects else tokens.x.shape[-1]
        tokens, step = context.apply(part, tokens, known, draws, width, traced, merges)
        steps.append(step)
        projected = projected or connects
    return tokens if projected else project(), steps


def _images(left: rows.Rows, count: int, counted: Tensor, closed: bool, columns: Columns) -> Images:
    """closed: newlines may stay."""
    newlines = left.newlines and left.newlines.left(left.tokens, closed)
    patches = counted[:, left.prompt[:, None], left.column.clamp(min=0)]
    asked = (columns.asking & columns.instruction)[left.prompt]
    ahead = torch.arange(asked.shape[1], device=asked.device) <= left.column.amax(1, keepdim=True)
    words = asked.sum(1) - (asked & ahead).sum(1)
    return Images(count, left.prompt, patches, left.known, newlines, words)


def _output(modality: str, output: Any, left: rows.Rows, prompt: Prompt) -> Any:
    """A feature function's output with what is left, in the order of the prompts."""
    tokens, images, S = left.tokens, prompt.images, prompt.columns.real.shape[1]
    number = torch.arange(len(images.row), device=images.row.device) % images.count
    mine = ((number < left.images) == (modality == "image"))[:, None]
    begin = images.row[:, None] * S
    keep = tokens.valid & mine
    vectors, column = [tokens.x[keep]], [(begin + prompt.entry.place)[keep]]
    if (newlines := images.newlines) is not None:
        stay = (newlines.column >= 0) & mine
        vectors.append(newlines.x[stay].to(tokens.x.dtype))
        column.append((begin + newlines.column)[stay])
    order = torch.cat(column).argsort()
    x = torch.cat(vectors)[order]
    # A tensor stays one, of units of one token: any number of them divides into whole units.
    pooled = x[:, None] if isinstance(output.pooler_output, Tensor) else [x]
    # An output of its own: generate without a cache hands the same one to every step. And nothing else that
    # the tower made, or it would be held while the language model runs.
    given = type(output)(pooler_output=pooled)
    if left.deep:
        given.deepstack_features = [[tokens.mean(layer)[keep][order]] for layer in left.deep]
    return given
