"""Features out: what the vision tower made of the images, and what compressors need to see of it.

`generate` encodes images before it calls the model, when the prompt is not known yet. So encoding only
collects: what compressors need of the tower rides beside the features as further channels of the same
rows, and whatever `generate` does to rows (beams, devices) it does to all of it. Compression follows in
the base model's pre-hook, where ids, mask and features meet (before.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foveate.compressor import Compressor, Tower
from foveate.hosts import glance, traits
from foveate.tokens import VisualTokens

FROM_TOWER = frozenset({"cls_attention", "keys", "features"})
IMAGE_COUNT = "image_count"  # on every output encoded here: images before any beam expansion


class Images(NamedTuple):
    """Encoded images: tokens (I, P, D), the context fields that rode with them, and where they stand."""

    tokens: VisualTokens
    fields: dict[str, Any]
    projected: bool


def encode(
    base: nn.Module, own: Callable[..., Any], parts: list[Compressor], *args: Any, **kwargs: Any
) -> Any:
    """Image features by the model's `own` function, with what `parts` need as further channels of a row.

    Where a compressor stands before the projector, rows hold what the projector would read, and it does
    not run. The output's `layout` names the channels.
    """
    needs = frozenset().union(*(part.needs for part in parts)) & FROM_TOWER
    early = any(part.site.tower < Tower.language for part in parts)
    if not needs and not early:
        output = own(base, *args, **kwargs)
        if not isinstance(output, tuple):
            output[IMAGE_COUNT] = len(output.pooler_output)
        return output
    for name in ("vision_feature_layer", "vision_feature_select_strategy"):
        if needs and kwargs.get(name) not in (None, getattr(base.config, name, None)):
            raise NotImplementedError(
                f"{name}={kwargs[name]!r} in one call: set it in model.config"
            )
    if "features" in needs:
        kwargs["output_hidden_states"] = True
    look = glance.TowerGlance(traits.has_class_token(base), needs)
    kwargs |= {glance.TOWER_KEY: look, "return_dict": True}
    output = own(_Unprojected(base) if early else base, *args, **kwargs)
    channels = _channels(base, output, look)
    rows = torch.cat(list(channels.values()), dim=-1)  # promotes to float32 beside float32 scores
    output["layout"] = tuple((name, part.shape[-1]) for name, part in channels.items())
    output["projected"], output["dtype"] = not early, channels["x"].dtype
    output[IMAGE_COUNT] = len(rows)
    output.pooler_output = list(rows)
    return output


class _Unprojected:
    """The base model as its own functions see it, but for a projector that hands on what it reads."""

    def __init__(self, base: nn.Module):
        self._base = base

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._base, name)
        return _hand_on if found is traits.connector_of(self._base) else found


def _hand_on(features: Tensor) -> Tensor:
    return features


def _channels(base: nn.Module, output: Any, look: glance.TowerGlance) -> dict[str, Tensor]:
    """What each row holds, by name: (images, P, ·) each."""
    bare = traits.without_class
    channels = {"x": torch.stack(list(output.pooler_output))}
    if "cls_attention" in look.wants:
        channels["cls_attention"] = bare(base, look.seen["cls_attention"])[..., None]
    if "keys" in look.wants:
        channels["keys"] = bare(base, look.seen["keys"])
    if "features" in look.wants:
        states = output.hidden_states
        channels |= {f"features {i}": bare(base, state) for i, state in enumerate(states)}
    return channels


def unpack(output: Any) -> Images:
    """What `encode` packed, padded to the longest image."""
    rows = list(output.pooler_output)
    real = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows]
    wide, valid = pad_sequence(rows, batch_first=True), pad_sequence(real, batch_first=True)
    if "layout" not in output:
        return Images(VisualTokens.of(wide, valid), {}, projected=True)
    names, widths = zip(*output["layout"], strict=True)
    channels = dict(zip(names, wide.split(widths, dim=-1), strict=True))
    dtype = output["dtype"]
    fields: dict[str, Any] = {}
    if "cls_attention" in channels:
        fields["cls_attention"] = channels["cls_attention"][..., 0]
    if "keys" in channels:
        fields["keys"] = channels["keys"]
    if states := [c.to(dtype) for name, c in channels.items() if name.startswith("features ")]:
        fields["features"] = tuple(states)
    return Images(VisualTokens.of(channels["x"].to(dtype), valid), fields, output["projected"])


def patch_grid(base: nn.Module, tokens: VisualTokens) -> Tensor | None:
    """(I, P, 3) view, row and column of each patch; None where the patches are no whole grid."""
    images, P = tokens.valid.shape
    shape = traits.grid_of(base, P)
    if shape is None or not bool(tokens.valid.all()):
        return None
    patch = torch.arange(P, device=tokens.x.device)
    cells = torch.stack([torch.zeros_like(patch), patch // shape[1], patch % shape[1]], dim=-1)
    return cells.expand(images, P, 3)
