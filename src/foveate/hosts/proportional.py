"""Proportional attention: a merged token is looked at as often as it carries patches.

After ToMe, Bolya et al. 2022, arXiv:2210.09461: the logarithm of a token's size is added to the logits of its
column, in every decoder layer that sees it. That is one additive mask for all layers of a stage and a kind.
Where the model made none for a prefill, or one of bits, there are (B, 1, rows, columns) numbers now: kernels
take no other. A decoding step has one row.

Letters: B prompts, S columns of the sequence, R rows that look, C columns they look at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.tokens import VisualTokens
from foveate.hosts.positions import at, layer_type

KERNELS = ("sdpa", "eager")


def check(decoder: nn.Module) -> None:
    """Raise NotImplementedError for a language model whose layers take no additive mask."""
    kernel = decoder.config._attn_implementation or "eager"
    wanted = "attention='proportional' adds to the mask"
    if kernel not in KERNELS:
        raise NotImplementedError(
            f"{wanted}, which attention {kernel!r} does not take: load the model with "
            "attn_implementation='sdpa', or leave it out"
        )
    kinds = {layer_type(decoder, i) for i in range(len(decoder.layers))}
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise NotImplementedError(
            f"{wanted}, and decoder layers of kind {sorted(others)} have none: leave it out"
        )


def weight_of(tokens: VisualTokens, row: Tensor, place: Tensor, shape: torch.Size) -> Tensor | None:
    """(B, S) the logarithm of each column's size; None where no token carries several patches.

    row (I,) the prompt, and place (I, N) the columns in it, of each image's tokens.
    """
    size = tokens.size
    if not bool((size > 1).any()):
        return None
    weight = torch.zeros(shape, device=place.device)
    return weight.index_put(at(row, place, tokens.valid), size[tokens.valid].float().log())


def weigh(mask: Tensor | None, weight: Tensor, hidden: Tensor, past: int, cache: Any) -> Tensor:
    """(B, 1, R, C) a layer's mask, with what is added to every look at a column.

    mask (B or 1, 1, R, C) bool or additive, None for a causal one; weight (B, S) of the first columns of all,
    the others have none; hidden (B, R, D) what looks; past: columns that stood there before. C may be more
    columns than there are, in a static cache, or the last ones, in a window's.
    """
    columns, rows = past + hidden.shape[1], hidden.shape[1]
    if mask is None:
        place = torch.arange(rows, device=hidden.device)[:, None] + past
        mask = (torch.arange(_places(cache, columns), device=hidden.device) <= place)[None, None]
    if mask.dtype == torch.bool:
        closed = torch.finfo(hidden.dtype).min
        mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, closed)
    C = mask.shape[-1]
    weight = torch.nn.functional.pad(weight, (0, max(columns, C) - weight.shape[1]))
    begin = max(columns - C, 0)
    return mask + weight[:, None, None, begin : begin + C].to(mask)


def _places(cache: Any, columns: int) -> int:
    """How many columns a layer's attention is handed of so many: all places of a static cache."""
    if not getattr(cache, "is_compileable", False):
        return columns
    return max(layer.max_cache_len for layer in cache.layers)
