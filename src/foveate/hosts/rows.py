"""Images and videos as compressors see them, one row each, and where their patches stand in the prompts.

What a model's feature function counts as a unit may be a tile, a frame, or all that a prompt holds. A
row is what its user calls an image: the units, or the runs of placeholders, that belong together.

Letters: B prompts, S columns, I images and videos, P patches, Q newlines of one, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foveate.core.tokens import VisualTokens
from foveate.hosts import grids, traits
from foveate.hosts.encode import Encoded
from foveate.hosts.glance import asked_of
from foveate.hosts.newlines import Newlines

MARKER_GAP = 4  # tokens between two tiles of one image, at most: a line break and markers
PLACES = ("grid", "overview")


@dataclass(frozen=True, eq=False)
class Rows:
    """Images first, then videos.

    tokens    (I, P, D)  with x as the projector reads it if not `projected`
    prompt    (I,)       the prompt each stands in
    column    (I, P)     its patches' columns, -1 behind the last
    images    how many rows are images
    fields    Context fields of the patches that the tower gave
    known     grid (I, P, 3) and overview (I, P); empty where nothing tells
    newlines  or None
    deep      (I, P, D) by layer, what is added after the first decoder layers
    carriers  (I, P, K) what compressors in the tower left, as within.py has it; None where there are none
    """

    tokens: VisualTokens
    prompt: Tensor
    column: Tensor
    images: int
    fields: dict[str, Any]
    known: dict[str, Tensor]
    newlines: Newlines | None
    deep: list[Tensor]
    projected: bool
    carriers: Tensor | None = None

    def repeated(self, copies: int) -> Rows:
        """The same rows for prompts that each stand there `copies` times in a row, as beams do."""
        if copies == 1:
            return self
        rows = len(self.prompt)
        index = torch.arange(rows, device=self.prompt.device).repeat(copies)
        copy = torch.arange(copies, device=self.prompt.device).repeat_interleave(rows)
        return replace(
            self,
            tokens=self.tokens.rows(index),
            prompt=(self.prompt * copies)[index] + copy,
            column=self.column[index],
            known={name: value[index] for name, value in self.known.items()},
            newlines=self.newlines and self.newlines.rows(index),
            deep=[layer[index] for layer in self.deep],
        )


def of_prompts(base: nn.Module, ids: Tensor, encoded: dict[str, Encoded]) -> Rows:
    """The rows of a batch of prompts, in their order. ids (B, S).

    Raises ValueError if placeholders and features do not match, with their numbers.
    """
    images: list[dict[str, Any]] = []
    count = 0
    for modality in traits.MODALITIES:
        if modality in encoded:
            images += _of_modality(base, ids, modality, encoded[modality])
            count = len(images) if modality == "image" else count
    first = next(iter(encoded.values()))
    if images:
        return _rows(base, images, count, first)
    D = first.units[0].shape[-1] if first.units else 0
    tokens = VisualTokens.of(torch.zeros(0, 0, D, device=ids.device))
    nowhere = ids.new_zeros(0), ids.new_zeros(0, 0)
    return Rows(tokens, *nowhere, 0, {}, {}, None, [], first.projected)


def of_units(base: nn.Module, modality: str, encoded: Encoded, sizes: Sequence[int]) -> Rows:
    """The rows of images, or videos, that stand in no prompt: each alone, from column 0 on.

    sizes: how many visual tokens each is, newlines included. Raises ValueError if that is not what there is.
    """
    cells = _cells(encoded)
    if sum(sizes) != (total := len(cells["x"])):
        raise ValueError(f"{total} visual tokens for {modality}s of {[*sizes]}: they must match")
    device = cells["x"].device
    column = torch.cat([torch.arange(n, device=device) for n in sizes])
    number = torch.arange(len(sizes), device=device)
    prompt = number.repeat_interleave(torch.tensor(sizes, device=device))
    images = _apart_by(base, modality, cells, sizes, prompt, column)
    return _rows(base, images, len(images) if modality == "image" else 0, encoded)


def _rows(base: nn.Module, images: list[dict[str, Any]], count: int, first: Encoded) -> Rows:
    """Images side by side, `count` of them before the videos. first: what was encoded first."""
    apart = ("prompt", *PLACES)
    padded = {name: _padded(images, name) for name in images[0] if name not in apart}
    valid = padded["column"] >= 0
    tokens = VisualTokens.of(padded.pop("x").masked_fill(~valid[..., None], 0), valid)
    known = all(image["grid"] is not None for image in images)
    newlines = None
    if "newline_x" in padded:
        x, *places = (padded.pop(f"newline_{name}") for name in ("x", "column", "closes"))
        if not first.projected:  # what came are marks
            x = base.image_newline.to(x.device).expand(*x.shape[:2], -1)
        newlines = Newlines(x, *places)
    deep = [padded.pop(name) for name in list(padded) if name.startswith("deep ")]
    return Rows(
        tokens=tokens,
        prompt=torch.stack([image["prompt"] for image in images]),
        column=padded.pop("column"),
        images=count,
        fields=_fields(padded, tokens),
        known={name: _padded(images, name) for name in PLACES} if known else {},
        newlines=newlines,
        deep=deep,
        projected=first.projected,
        carriers=padded.get("carriers"),
    )


def _fields(padded: dict[str, Tensor], tokens: VisualTokens) -> dict[str, Any]:
    fields: dict[str, Any] = {n: padded[n] for n in ("cls_attention", "keys") if n in padded}
    for name, value in padded.items():
        field, index = asked_of(name)
        if index is not None:
            value = value.to(tokens.x.dtype) if field == "features" else value
            fields.setdefault(field, {})[index] = value
    return fields


def _padded(images: list[dict[str, Any]], name: str) -> Tensor:
    fill = -1 if name in ("column", "grid", "newline_column", "newline_closes") else 0
    return pad_sequence([image[name] for image in images], batch_first=True, padding_value=fill)


def _of_modality(
    base: nn.Module, ids: Tensor, modality: str, encoded: Encoded
) -> list[dict[str, Any]]:
    """Every row of one modality: what holds of its patches, by name, (P, …) each."""
    cells = _cells(encoded)
    device = cells["x"].device
    mine = (ids == traits.placeholder_id(base, modality)).to(device)
    found = mine.flatten().nonzero()[:, 0]
    total = len(cells["x"])
    sizes = [len(unit) for unit in encoded.units]
    if len(found) != total:
        raise ValueError(
            f"{len(found)} placeholders for {total} visual tokens of {len(sizes)} {modality}s: "
            f"{modality}s and prompts must match"
        )
    if encoded.together is None:
        sizes = _runs(ids.to(device), mine, traits.tiles_are_marked(base))
    elif encoded.together > 1:
        step = encoded.together
        sizes = [sum(sizes[i : i + step]) for i in range(0, len(sizes), step)]
    S = ids.shape[1]
    return _apart_by(base, modality, cells, sizes, found // S, found % S)


def _apart_by(
    base: nn.Module,
    modality: str,
    cells: dict[str, Tensor],
    sizes: Sequence[int],
    prompt: Tensor,
    column: Tensor,
) -> list[dict[str, Any]]:
    """The cells of each row, so many at a time, with the prompts and columns they stand in."""
    rows = []
    for part in zip(
        *(value.split(sizes) for value in (prompt, *cells.values(), column)), strict=True
    ):
        stands, row = part[0], dict(zip([*cells, "column"], part[1:], strict=True))
        if len(stands) == 0:
            continue
        if bool((stands != stands[0]).any()):
            raise ValueError(f"the placeholders of one {modality} are split over two prompts")
        row = _apart(row)
        grid = row["grid"]
        row["overview"] = None if grid is None else grids.overview(base, modality, grid)
        rows.append({"prompt": stands[0], **row})
    return rows


def _cells(encoded: Encoded) -> dict[str, Tensor]:
    """Patches and newlines of all units in a row, by name: (N, …) each."""
    cells = {"x": torch.cat(encoded.units)}
    cells |= {name: torch.cat(values) for name, values in encoded.fields.items()}
    cells |= {f"deep {i}": torch.cat(layer) for i, layer in enumerate(encoded.deep)}
    if all(grid is not None for grid in encoded.grids):
        views, start = [], 0
        for grid in encoded.grids:
            views.append(grid + torch.tensor([start, 0, 0], device=grid.device))
            start += int(grid[:, 0].max()) + 1 if len(grid) else 0
        cells["grid"] = torch.cat(views)
    if encoded.newlines is not None:
        cells["newline"] = torch.cat([newline for newline, _ in encoded.newlines])
        cells["closes"] = torch.cat([closes for _, closes in encoded.newlines])
    return cells


def _apart(row: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """One row, its newlines apart from its patches, and its views counted from 0."""
    newline, closes = row.pop("newline", None), row.pop("closes", None)
    apart: dict[str, Tensor | None] = dict(row)
    if newline is not None:
        apart = {name: value[~newline] for name, value in row.items()}
        apart |= {f"newline_{name}": row[name][newline] for name in ("x", "column")}
        apart["newline_closes"] = closes[~newline]
    grid = apart.get("grid")
    if grid is not None:
        grid = torch.cat([grid[:, :1] - grid[:, :1].min(), grid[:, 1:]], dim=1)
    return {**apart, "grid": grid}


def _runs(ids: Tensor, mine: Tensor, marked: bool) -> list[int]:
    """How many placeholders each image has, where images are runs of them. ids, mine (B, S).

    marked: every tile is a run of its own, with two ids in front: one that all runs share, and one that
    says which tile it is. Only processors know these ids; but an image ends with its small copy, so the
    prompt's last run shows how that is marked. A run marked otherwise, close to the next, is a tile.
    """
    sizes: list[int] = []
    for row, is_mine in zip(ids, mine, strict=True):
        edge = torch.nn.functional.pad(is_mine.long(), (1, 1)).diff()
        starts, ends = (edge == 1).nonzero()[:, 0].tolist(), (edge == -1).nonzero()[:, 0].tolist()
        if not starts:
            continue
        around = [row[max(s - 2, 0) : s].tolist() for s in starts]  # "tiles follow", and which
        size = 0
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            size += end - start
            last = i + 1 == len(starts)
            if marked and not last and starts[i + 1] - end <= MARKER_GAP:
                ours, whole = around[i], around[-1]
                if len(ours) == 2 and ours[0] == whole[0] and ours[1] != whole[1]:
                    continue
            sizes.append(size)
            size = 0
    return sizes
