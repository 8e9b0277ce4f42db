"""Features out: what the vision tower made of images and videos, and what compressors need to see of it.

`generate` encodes images before it calls the model, when the prompt is not known yet. So encoding only
collects, in an `Encoded` that rides on the model's own output; compression follows in the base model's
pre-hook, where ids, mask and features meet (before.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import OF_BLOCKS, Compressor, Tower
from foveate.hosts import glance, grids, traits, watched, within
from foveate.hosts.attachment import Attachment
from foveate.hosts.calls import PIXELS

KEY = "visual_tokens"  # under which an Encoded rides on a feature function's output


@dataclass(eq=False)
class Encoded:
    """What a feature function gave, unit by unit. A unit is what it counts: an image, a tile, a frame.

    units      (n, D) each, as the projector reads them if not `projected`
    grids      (n, 3) each; None where unknown
    newlines   (n,) bool each, and the newline that closes each patch's row; None without newlines
    fields     name → (n, …) each: what compressors asked of the tower
    deep       layer by layer, (n, D) of each unit: what is added after the first decoder layers
    together   units of one row, where that is known; None where the prompt's placeholders say
    within     the compressors that acted in the tower; `carriers` of the fields says on which patches
    """

    units: list[Tensor]
    projected: bool
    grids: list[Tensor | None]
    newlines: list[tuple[Tensor, Tensor]] | None
    fields: dict[str, list[Tensor]]
    deep: list[list[Tensor]] = field(default_factory=list)
    together: int | None = 1
    within: list[Compressor] = field(default_factory=list)
    needs: frozenset[str] = frozenset()  # what was asked of the tower
    asked: tuple[Tensor, Tensor] | None = None  # ids: of the prompt, of the last call


def encode(
    base: nn.Module,
    own: Callable[..., Any],
    modality: str,
    parts: list[Compressor],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Features by the model's `own` function, as it gives them, with an Encoded for `parts`.

    Where a compressor stands before the projector, the features are what the projector would read, and
    it does not run.
    """
    if kwargs.get("return_dict") is False:
        return own(base, *args, **kwargs)
    needs, early = of_tower(parts), before_projector(parts)
    _refuse_other_features(base, kwargs, needs)
    given = inspect.signature(own).bind_partial(base, *args, **kwargs).arguments
    if any(glance.asked_of(name)[0] == "features" for name in needs):
        kwargs["output_hidden_states"] = True
    merger = traits.merger_of(base)
    acting = within.of(parts)
    names = frozenset(filter(None, map(within.keys_before, acting)))
    look = glance.TowerGlance(needs, acting, names, ordered=merger is not None and bool(needs))
    seen = base if merger is not None else watched.Watched(base, look, early)
    if needs or early or acting:
        output = _looked_at(look, own, seen, *args, **kwargs)
    else:
        output = own(seen, *args, **kwargs)
    if isinstance(output, tuple) or KEY in output:  # encoded by another feature function it calls
        return output
    units = watched.narrowed(output, look)
    if merger is not None:
        look.taken = _of_merger(output, look)
    elif early:
        watched.refuse_mixing(seen, units, look)
        if acting and units:
            index = look.taken["index"]
            look.taken["carriers"] = within.followed(look.passages, index, len(seen.read))
    encoded = _encoded(base, modality, given, output, units, look.taken, not early, needs)
    output[KEY] = replace(encoded, within=acting)
    return output


@torch.compiler.disable  # who looks into a tower travels in a context variable, which cannot be traced
def _looked_at(
    look: glance.TowerGlance, own: Callable[..., Any], seen: Any, *args: Any, **kwargs: Any
) -> Any:
    with glance.looking(look):
        return own(seen, *args, **kwargs)


def features(
    base: nn.Module, kwargs: dict[str, Any], attachment: Attachment
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """By modality, what was encoded, before or here, and the pixels that came; the call without them.

    Raises NotImplementedError for features without an Encoded and for a prompt without ids, ValueError for
    placeholders that nothing came for.
    """
    ids, outputs, pixels = kwargs.get("input_ids"), {}, {}
    for modality in traits.modalities(base):
        output = (kwargs.get("mm_encoder_outputs") or {}).get(modality)
        came = [name for name in PIXELS[modality] if kwargs.get(name) is not None]
        if output is None and came and len(kwargs[came[0]]):
            own = getattr(base, f"get_{modality}_features")
            names = inspect.signature(own).parameters
            given = {n: kwargs[n] for n in names if n != "kwargs" and kwargs.get(n) is not None}
            output = own(**given, return_dict=True)
        if came:
            pixels[modality] = kwargs[came[0]]
        kwargs = {name: value for name, value in kwargs.items() if name not in came}
        if output is None and ids is not None:
            _refuse_missing(base, ids, modality, attachment)
        elif output is not None and KEY not in output:
            raise NotImplementedError(
                f"{modality} features that this model did not encode for compression, as a chunked "
                f"prefill passes them: use prefill_chunk_size=None, or the outputs of this model's "
                f"get_{modality}_features"
            )
        elif output is not None:
            outputs[modality] = output
    if ids is None:
        raise NotImplementedError(
            "a prompt as inputs_embeds has no placeholders to compress: pass input_ids and pixel_values, "
            "or foveate.restore(model) first"
        )
    return outputs, pixels, kwargs


def _refuse_missing(base: nn.Module, ids: Tensor, modality: str, attachment: Attachment) -> None:
    count = int((ids == traits.placeholder_id(base, modality)).sum())
    if count and not all(part.keeps_all for part in attachment.acting(base)):
        raise ValueError(
            f"{count} {modality} placeholders, but no {modality}s: pass {PIXELS[modality][0]}, "
            "and no prefill_chunk_size: a chunked prefill loses them. An assistant in assisted "
            "decoding is never given any: foveate.restore(assistant), or let it keep all"
        )


def before_projector(parts: Iterable[Compressor]) -> bool:
    """Whether any of these compressors is given what the projector reads, and not what it makes of that."""
    return any(part.site.tower < Tower.language for part in parts)


def of_tower(parts: list[Compressor]) -> frozenset[str]:
    """What compressors ask of the tower's output; of fields by index each by its own name: "features 3"."""
    parts = [part for part in parts if part.site.tower > Tower.vision]
    asked = frozenset().union(*(part.needs for part in parts)) & {"cls_attention", "keys"}
    read = (chosen(part).items() for part in parts)
    return asked.union(f"{name} {i}" for items in read for name, indices in items for i in indices)


def chosen(part: Compressor) -> dict[str, tuple[int, ...]]:
    """The fields that a compressor reads by index, and at which."""
    read = dict.fromkeys(OF_BLOCKS, part.vision_blocks) | {"features": part.vision_layers}
    return {name: indices for name, indices in read.items() if name in part.needs}


def _encoded(
    base: nn.Module,
    modality: str,
    given: dict[str, Any],
    output: Any,
    units: list[Tensor],
    fields: dict[str, list[Tensor]],
    projected: bool,
    needs: frozenset[str],
) -> Encoded:
    device = units[0].device if units else None
    marks = fields.get("newline")
    newlines = None if marks is None else [(mark[:, 0] > 0.5).cpu() for mark in marks]
    places = grids.of_units(base, modality, given, [len(unit) for unit in units], newlines)
    if newlines is not None:
        closes = [grids.closing_newline(base, modality, mask) for mask in newlines]
        newlines = [(m.to(device), c.to(device)) for m, c in zip(newlines, closes, strict=True)]
    fields = {name: value for name, value in fields.items() if name not in ("newline", "index")}
    for name in fields:
        if glance.asked_of(name)[0] in glance.ATTENTION:
            fields[name] = [value[:, 0] for value in fields[name]]
    return Encoded(
        units=units,
        projected=projected,
        grids=[None if grid is None else grid.to(device) for grid in places],
        newlines=newlines,
        fields=fields,
        deep=[list(layer) for layer in traits.deepstack(output) or []],
        together=_together(base, modality, given, len(units)),
        needs=needs,
    )


def _together(base: nn.Module, modality: str, given: dict[str, Any], units: int) -> int | None:
    """How many units make a row: frames of a clip, or a single one; None where only a prompt says."""
    if modality == "image":
        return None if traits.rows_are_runs(base) else 1
    frames = given.get("pixel_values_videos")
    clips = frames is not None and frames.dim() == 5
    return frames.shape[1] if clips and units == frames.shape[0] * frames.shape[1] else 1


def _of_merger(output: Any, look: glance.TowerGlance) -> dict[str, list[Tensor]]:
    """What the tower showed, for patches whose order a connector inside the tower has changed."""
    if not look.taken:
        return {}
    index = torch.cat(look.taken.pop("index"))[:, 0].round().long()
    sizes = [len(unit) for unit in output.pooler_output]
    empty = index.new_zeros(len(index), 1)
    fields = look.channels(None, empty, output, None)
    return {name: list(value[index].split(sizes)) for name, value in fields.items()}


def _refuse_other_features(base: nn.Module, kwargs: dict[str, Any], needs: frozenset[str]) -> None:
    for name in traits.SELECTING:
        if needs and kwargs.get(name) not in (None, getattr(base.config, name, None)):
            raise NotImplementedError(
                f"{name}={kwargs[name]!r} in one call: set it in model.config, then compress"
            )
