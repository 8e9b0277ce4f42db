"""Which columns of a sequence stay, and what that does to positions, masks and shapes.

Letters: B prompts, S columns before, M after.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from foveate.core.ops import in_front, pick
from foveate.core.tokens import VisualTokens


@dataclass(frozen=True)
class Cut:
    """Columns that stay, row by row.

    order  (B, M)  the old column in each new place; any column where a row is padded
    valid  (B, M)  False where a row is padded
    back   (B, S)  for every old column, the new place of the last column that stayed up to it
    """

    order: Tensor
    valid: Tensor
    back: Tensor

    @classmethod
    def keeping(cls, keep: Tensor, pad_right: bool) -> Cut:
        """The columns marked True, in order; shorter rows are padded on the given side. keep (B, S)."""
        count = keep.sum(1, keepdim=True)
        M = int(count.max())
        order = in_front(keep, M)
        place = torch.arange(M, device=keep.device)
        first = torch.zeros_like(count) if pad_right else M - count
        source = place - first
        valid = (source >= 0) & (source < count)
        order = order.gather(1, source.clamp(0, M - 1))
        back = (keep.cumsum(1) - 1).clamp(min=0) + first
        return cls(order, valid, back.clamp(max=M - 1))

    def take(self, x: Tensor, fill: int | float | None = None) -> Tensor:
        """What stands in the new places; `fill` in padding. x (B, S, …) → (B, M, …)."""
        taken = pick(x, self.order)
        return taken if fill is None else taken.masked_fill(~_like(self.valid, taken), fill)

    def stretch(self, x: Tensor) -> Tensor:
        """The old length again, dropped columns filled from the left. x (B, M, …) → (B, S, …)."""
        return pick(x, self.back)


def padding_mask(mask: Any, length: int) -> Tensor | None:
    """(B, length) which columns are real, from any mask a model may be called with; None if all are.

    4-D masks are read where a column looks at itself: with a window, the last one does not see the first.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None:
        return None
    if mask.dim() == 4:
        mask = mask[:, 0].diagonal(dim1=-2, dim2=-1)
        mask = mask if mask.dtype == torch.bool else mask == 0
    return mask[:, :length].bool()


def short_attention(mask: Tensor, columns: Tensor, real: Tensor, static: bool = False) -> Tensor:
    """A prepared 4-D mask for the columns that are left, queries and keys alike.

    mask (B or 1, H or 1, S, ≥ S) bool or additive; columns (B, M); real (B, M). Key columns behind the
    sequence, a static cache's free places, stay closed; there the width does not change. Padding rows
    see themselves alone: a row that sees nothing turns to NaN in some kernels.
    """
    B, M = columns.shape
    S, places = mask.shape[-2:]
    closed = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    open_ = True if mask.dtype == torch.bool else 0
    mask = mask.expand(B, *mask.shape[1:])
    H = mask.shape[1]
    mask = mask.gather(2, columns[:, None, :, None].expand(B, H, M, places))
    mask = mask.gather(3, columns[:, None, None].expand(B, H, M, M))
    itself = torch.eye(M, dtype=torch.bool, device=mask.device)
    mask = mask.masked_fill(~real[:, None, None, :] | ~real[:, None, :, None], closed)
    mask = mask.masked_fill(itself & ~real[:, None, :, None], open_)
    free = places - M if static else places - S
    return torch.nn.functional.pad(mask, (0, free), value=closed) if free > 0 else mask


def layer_type(decoder: nn.Module, layer: int) -> str:
    """What kind of attention a decoder layer has; its masks and rotary embeddings differ by it."""
    types = getattr(decoder.config, "layer_types", None)
    return types[layer] if types else "full_attention"


def window_of(decoder: nn.Module, layer: int) -> int | None:
    """How many columns a decoder layer looks back; None for all of them."""
    window = getattr(decoder.config, "sliding_window", None)
    types = getattr(decoder.config, "layer_types", None)
    return window if types is None or types[layer] == "sliding_attention" else None


def refuse_window(decoder: nn.Module, columns: int, cache: Any) -> None:
    """Raise NotImplementedError where a sliding window would count kept columns above a cut.

    A window is meant in columns of the language model's input, kept or dropped. Where the model takes a
    mask, the mask says so; flash kernels and static caches count what is there.
    """
    kernel = str(decoder.config._attn_implementation or "")
    if "flash" not in kernel and not getattr(cache, "is_compileable", False):
        return
    windows = [window_of(decoder, i) for i in range(len(decoder.layers))]
    shortest = min((w for w in windows if w is not None), default=columns)
    if columns > shortest:
        raise NotImplementedError(
            f"{columns} columns outgrow the sliding window of {shortest}: with flash attention or a static "
            "cache, compress before the language model (layer 0) or stay within the window"
        )


def causal_mask(
    decoder: nn.Module, layer: int, hidden: Tensor, real: Tensor | None, cache: Any
) -> Tensor | None:
    """The mask the model would make for one layer's own cache. hidden (B, S, D), real (B, columns)."""
    sliding = layer_type(decoder, layer) == "sliding_attention"
    make = create_sliding_window_causal_mask if sliding else create_causal_mask
    return make(decoder.config, hidden, real, cache, None, layer_idx=layer)


def rotary_embeddings(decoder: nn.Module, layer: int, hidden: Tensor, position: Tensor) -> Any:
    """The model's rotary embeddings at position ids (A, B, S), of this layer's type where types differ."""
    rotary = decoder.rotary_emb
    parameters = getattr(decoder.config, "rope_parameters", None) or {}
    position = position.expand(3, -1, -1) if "mrope_section" in parameters else position[0]
    if "layer_type" in inspect.signature(rotary.forward).parameters:
        return rotary(hidden, position, layer_type=layer_type(decoder, layer))
    return rotary(hidden, position)


def entered_positions(position: Tensor | None, hidden: Tensor, past: int) -> Tensor:
    """(A, B, S) what a language model makes of the position ids it is given. hidden (B, S, D)."""
    B, S = hidden.shape[:2]
    if position is None:
        position = torch.arange(past, past + S, device=hidden.device)[None]
    if position.dim() == 2:
        position = position[None]
    return position[len(position) == 4 :].expand(-1, B, S)


def at(row: Tensor, place: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the prompts what is marked True stands, as an index. row (I,), place, mask (I, N)."""
    return row[:, None].expand_as(place)[mask], place[mask]


def last(position: Tensor, real: Tensor) -> Tensor:
    """(B,) the largest of position ids (A, B, S), padding apart."""
    return torch.where(real, position, -1).amax((0, 2))


def of_left(
    position: Tensor,
    columns: Tensor,
    tokens: VisualTokens,
    patches: Tensor,
    where: tuple[Tensor, Tensor],
) -> Tensor:
    """(A, B, M) position ids of the columns left; a token's is the floor of its patches' mean.

    position (A, B, S), columns (B, M), patches (A, I, P), where: the valid tokens stand.
    """
    axes = []
    for ids, own in zip(position, patches, strict=True):
        axis = pick(ids, columns)
        axis[where] = tokens.mean(own)[tokens.valid]
        axes.append(axis)
    return torch.stack(axes)


def renumbered(position: Tensor, columns: Tensor, real: Tensor, lost: Tensor) -> Tensor:
    """(A, B, M) position ids of the columns left, counted anew where a row lost some, on all axes alike.

    position (A, B, S), columns, real (B, M), lost (B,).
    """
    position = torch.stack([pick(ids, columns) for ids in position])
    start = torch.where(real, position, position.amax()).amin((0, 2))[:, None]
    anew = start + (real.long().cumsum(1) - 1).clamp(min=0)
    return torch.where(lost[:, None], anew, position)


def gather_rotary(part: Tensor, columns: Tensor) -> Tensor:
    """Rotary embeddings of some columns. part (…, B or 1, S, d), columns (B, M) → (…, B, M, d)."""
    if part.dim() == 3:
        return pick(part, columns)
    return torch.stack([pick(axis, columns) for axis in part])


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim()))
