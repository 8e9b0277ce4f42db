"""A base model as its own feature functions see it, so that they carry along what the tower was asked for.

What the tower shows is laid out as its own tokens are. To bring it to the patches, it goes the way the
features go: as further channels behind the connector's output, through whatever the model does there
(packing, cropping, newlines, pooling), and off again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.hosts import glance, traits, within


class Watched:
    """The base model as its own functions see it: they find its connector, tower and newline changed.

    The connector's output gets further channels: what was asked of the tower, brought to the patches. A
    newline gets a mark. Where a compressor stands before the projector, the projector does not run. Where
    one acts in the tower, its output is stretched.
    """

    def __init__(self, base: nn.Module, look: glance.TowerGlance, early: bool):
        self.base, self.look, self._early = base, look, early
        self.showed: Any = None  # the tower's output
        self.read: Tensor | None = None  # what the projector reads, token by token

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.base, name)
        if name in traits.CONNECTORS:
            return self._connect
        if name == "image_newline":
            return self._marked(found)
        if isinstance(found, nn.Module) and any(found is t for t in traits.towers_of(self.base)):
            return WatchedTower(found, self)
        return found

    def _connect(self, features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, look = self.base, self.look
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
        widths = dict(self.look.widths)
        vector = newline.new_zeros(widths["x"]) if self._early else newline
        others = newline.new_zeros(sum(widths.values()) - widths["x"] - 1)
        return torch.cat([vector, others, newline.new_ones(1)])


class WatchedTower:
    """A vision tower that notes what it gives."""

    def __init__(self, tower: nn.Module, watched: Watched):
        self._of, self._watched = tower, watched

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The tower's own output."""
        watched = self._watched
        watched.showed = self._of(*args, **kwargs)
        if watched.look.within:
            leading = int(traits.has_class_token(watched.base, self._of))
            within.stretched(watched.showed, watched.look.passages[-1], leading)
        return watched.showed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def _sizes(base: nn.Module, args: tuple) -> list[tuple[int, int]] | None:
    """(rows, columns) of each image's tower tokens, where a connector is told the image sizes."""
    if not args:
        return None
    side = traits.patch_size(base)
    return [(int(h) // side, int(w) // side) for h, w in torch.as_tensor(args[0]).tolist()]


def narrowed(output: Any, look: glance.TowerGlance) -> list[Tensor]:
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


def refuse_mixing(seen: Watched, units: list[Tensor], look: glance.TowerGlance) -> None:
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
