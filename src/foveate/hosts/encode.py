"""Features out: what the vision tower made of images and videos, and what compressors need to see of it.

`generate` encodes images before it calls the model, when the prompt is not known yet. So encoding only
collects, in an `Encoded` that rides on the model's own output; compression follows in the base model's
pre-hook, where ids, mask and features meet (before.py).

What the tower shows is laid out as its own tokens are. To bring it to the patches, it goes the way the
features go: as further channels behind the connector's output, through whatever the model does there
(packing, cropping, newlines, pooling), and off again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor, Tower
from foveate.hosts import glance, grids, traits

FROM_TOWER = frozenset({"cls_attention", "keys"})
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
    """

    units: list[Tensor]
    projected: bool
    grids: list[Tensor | None]
    newlines: list[tuple[Tensor, Tensor]] | None
    fields: dict[str, list[Tensor]]
    deep: list[list[Tensor]] = field(default_factory=list)
    together: int | None = 1
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
    needs = of_tower(parts)
    early = any(part.site.tower < Tower.language for part in parts)
    _refuse_other_features(base, kwargs, needs)
    given = inspect.signature(own).bind_partial(base, *args, **kwargs).arguments
    if needs - FROM_TOWER:
        kwargs["output_hidden_states"] = True
    merger = traits.merger_of(base)
    look = glance.TowerGlance(needs, ordered=merger is not None and bool(needs))
    seen = base if merger is not None else _Watched(base, look, early)
    with glance.looking(look):
        output = own(seen, *args, **kwargs)
    if isinstance(output, tuple) or KEY in output:  # encoded by another feature function it calls
        return output
    units = _narrowed(output, look)
    if merger is not None:
        fields = _of_merger(output, look)
    else:
        fields = look.taken
        if early:
            _refuse_mixing(seen, units, look)
    output[KEY] = _encoded(base, modality, given, output, units, fields, not early, needs)
    return output


def of_tower(parts: list[Compressor]) -> frozenset[str]:
    """What compressors ask of the tower, each hidden state by a name of its own: "features 3"."""
    asked = frozenset().union(*(part.needs for part in parts)) & FROM_TOWER
    read = (part.vision_layers for part in parts if "features" in part.needs)
    return asked.union(f"features {i}" for layers in read for i in layers)


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
    marks = fields.pop("newline", None)
    newlines = None if marks is None else [(mark[:, 0] > 0.5).cpu() for mark in marks]
    fields.pop("index", None)
    if "cls_attention" in fields:
        fields["cls_attention"] = [value[:, 0] for value in fields["cls_attention"]]
    device = units[0].device if units else None
    where = grids.of_units(base, modality, given, [len(unit) for unit in units], newlines)
    closed = None
    if newlines is not None:
        closes = [grids.closing_newline(base, modality, mask) for mask in newlines]
        closed = [(m.to(device), c.to(device)) for m, c in zip(newlines, closes, strict=True)]
    deep = traits.deepstack(output)
    frames = given.get("pixel_values_videos") if modality == "video" else None
    together: int | None = 1
    if modality == "image" and traits.rows_are_runs(base):
        together = None
    elif (
        frames is not None and frames.dim() == 5 and len(units) == frames.shape[0] * frames.shape[1]
    ):
        together = frames.shape[1]  # the units are frames, the rows clips
    return Encoded(
        units=units,
        projected=projected,
        grids=[None if grid is None else grid.to(device) for grid in where],
        newlines=closed,
        fields=fields,
        deep=[list(layer) for layer in deep] if deep is not None else [],
        together=together,
        needs=needs,
    )


class _Watched:
    """The base model as its own functions see it: they find its connector, tower and newline changed.

    The connector's output gets further channels: what was asked of the tower, brought to the patches. A
    newline gets a mark. Where a compressor stands before the projector, the projector does not run.
    """

    def __init__(self, base: nn.Module, look: glance.TowerGlance, early: bool):
        self._base, self._look, self._early = base, look, early
        self.showed: Any = None  # the tower's output
        self.read: Tensor | None = None  # what the projector reads, token by token

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._base, name)
        if name in traits.CONNECTORS:
            return self._connect
        if name == "image_newline":
            return self._marked(found)
        if isinstance(found, nn.Module) and any(found is t for t in traits.towers_of(self._base)):
            return _WatchedTower(found, self)
        return found

    def _connect(self, features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, look = self._base, self._look
        if self._early:
            out = traits.projector_of(base)[1](features, *args, **kwargs)
            self.read = out.reshape(-1, out.shape[-1])
        else:
            out = traits.connector_of(base)(features, *args, **kwargs)
        channels = look.channels(features, out, self.showed, _sizes(base, args))
        flat = out.shape[:-1]
        if self._early:
            index = torch.arange(flat.numel(), device=out.device, dtype=torch.float32)
            channels["index"] = index.reshape(*flat, 1)
        if hasattr(base, "image_newline"):
            channels["newline"] = out.new_zeros(*flat, 1)
        look.widths = {"x": out.shape[-1], **{n: c.shape[-1] for n, c in channels.items()}}
        look.dtype = out.dtype
        # Promotes to float32 beside float32 channels, and back without loss.
        return torch.cat([out, *channels.values()], dim=-1) if channels else out

    def _marked(self, newline: Tensor) -> Tensor:
        widths = dict(self._look.widths)
        vector = newline.new_zeros(widths["x"]) if self._early else newline
        others = newline.new_zeros(sum(widths.values()) - widths["x"] - 1)
        return torch.cat([vector, others, newline.new_ones(1)])


class _WatchedTower:
    """A vision tower that notes what it gives."""

    def __init__(self, tower: nn.Module, watched: _Watched):
        self._of, self._watched = tower, watched

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._watched.showed = self._of(*args, **kwargs)
        return self._watched.showed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def _sizes(base: nn.Module, args: tuple) -> list[tuple[int, int]] | None:
    """(rows, columns) of each image's tower tokens, where a connector is told the image sizes."""
    if not args:
        return None
    side = traits.patch_size(base)
    return [(int(h) // side, int(w) // side) for h, w in torch.as_tensor(args[0]).tolist()]


def _narrowed(output: Any, look: glance.TowerGlance) -> list[Tensor]:
    """The output's features as they would be alone; fills in what rode beside them, unit by unit."""
    pooled = output.pooler_output
    rows = list(pooled)
    if set(look.widths) <= {"x"}:
        return rows
    names, widths = zip(*look.widths.items(), strict=True)
    split = [dict(zip(names, row.split(widths, dim=-1), strict=True)) for row in rows]
    units = [parts.pop("x").to(look.dtype) for parts in split]
    look.taken = {name: [parts[name] for parts in split] for name in names if name != "x"}
    isolated = isinstance(pooled, Tensor)
    output.pooler_output = torch.stack(units) if isolated else units
    return units


def _of_merger(output: Any, look: glance.TowerGlance) -> dict[str, list[Tensor]]:
    """What the tower showed, for patches whose order a connector inside the tower has changed."""
    if not look.taken:
        return {}
    index = torch.cat(look.taken.pop("index"))[:, 0].round().long()
    sizes = [len(unit) for unit in output.pooler_output]
    empty = index.new_zeros(len(index), 1)
    fields = look.channels(None, empty, output, None)
    return {name: list(value[index].split(sizes)) for name, value in fields.items()}


def _refuse_mixing(seen: _Watched, units: list[Tensor], look: glance.TowerGlance) -> None:
    """Between projector and prompt, features may only be picked, or dropping first is another model."""
    read, index = seen.read, look.taken.get("index")
    if read is None or index is None:
        return
    marks = look.taken.get("newline")
    for i, unit in enumerate(units):
        patches = slice(None) if marks is None else marks[i][:, 0] < 0.5
        came = read[index[i][patches, 0].round().long().clamp(max=len(read) - 1)]
        if not torch.equal(came.to(unit.dtype), unit[patches]):
            raise NotImplementedError(
                f"image {i} has {len(unit)} visual tokens that the model interpolates behind its projector: "
                "nothing can stand before it or in its place; methods that act at language 0 work"
            )


def _refuse_other_features(base: nn.Module, kwargs: dict[str, Any], needs: frozenset[str]) -> None:
    for name in traits.SELECTING:
        if needs and kwargs.get(name) not in (None, getattr(base.config, name, None)):
            raise NotImplementedError(
                f"{name}={kwargs[name]!r} in one call: set it in model.config, then compress"
            )
