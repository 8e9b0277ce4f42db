"""What flows through foveate: visual tokens, and which original patches each of them carries.

Letters: B images, P patches of the uncompressed model, N tokens now, M tokens after, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.core.ops import in_front, pick

DROPPED = -1
PADDING = -2


@dataclass(frozen=True)
class VisualTokens:
    """Visual tokens, one row per image, and for every original patch the token that carries it now.

    x        (B, N, D)  the vectors
    owner    (B, P)     index of the token that carries this patch; -1 dropped, -2 row padding
    valid    (B, N)     False where a row is padded, so lengths may differ from image to image
    penalty  ()         auxiliary loss gathered on the way, added to the training loss

    Always: a patch has at most one owner, a valid token owns at least one patch, and the valid tokens
    of a row stand first, in the order of the first patch they own. `owner` is the only state: token
    sizes, places in the sequence, pictures and counts all follow from it.
    """

    x: Tensor
    owner: Tensor
    valid: Tensor
    penalty: Tensor | float = 0.0

    @classmethod
    def of(cls, x: Tensor, valid: Tensor | None = None) -> VisualTokens:
        """Uncompressed tokens: every patch is its own token. x (B, P, D), valid (B, P)."""
        B, P, _ = x.shape
        if valid is None:
            valid = torch.ones(B, P, dtype=torch.bool, device=x.device)
        owner = torch.arange(P, device=x.device).expand(B, P)
        return cls(x, owner.masked_fill(~valid, PADDING), valid)

    @property
    def size(self) -> Tensor:
        """(B, N) how many patches each token carries; 0 for padding."""
        return self.total(torch.ones_like(self.owner))

    @property
    def anchor(self) -> Tensor:
        """(B, N) the first patch each token carries: its place in the sequence. P for padding."""
        B, P = self.owner.shape
        owned = self.owner >= 0
        patch = torch.arange(P, device=self.x.device).expand(B, P).masked_fill(~owned, P)
        first = torch.full(self.valid.shape, P, device=self.x.device)
        return first.scatter_reduce(1, self.owner.clamp(min=0), patch, "amin")

    @property
    def counts(self) -> Tensor:
        """(B,) valid tokens of each image."""
        return self.valid.sum(1)

    @property
    def patches(self) -> Tensor:
        """(B,) patches of each image: the tokens it has without compression."""
        return (self.owner != PADDING).sum(1)

    def where(self, keep: Tensor) -> VisualTokens:
        """Prune: the tokens marked True stay, in order, unchanged. keep (B, N) bool.

        Raises ValueError for anything else, such as the indices of tokens.
        """
        fits = keep.shape in (self.valid.shape, self.valid.shape[1:])  # or one row for all images
        if keep.dtype != torch.bool or not fits:
            raise ValueError(
                f"where() got {str(keep.dtype).removeprefix('torch.')} {tuple(keep.shape)}: want bool "
                f"{tuple(self.valid.shape)}, True for every token that stays"
            )
        keep = keep & self.valid
        count = keep.sum(1)
        M = int(count.max()) if count.numel() else 0
        order = in_front(keep, M)
        valid = torch.arange(M, device=keep.device) < count[:, None]
        rank = (keep.cumsum(1) - 1).masked_fill(~keep, DROPPED)
        x = pick(self.x, order).masked_fill(~valid[..., None], 0)
        return replace(self, x=x, owner=self._follow(rank), valid=valid)

    def merge(self, into: Tensor, M: int, vectors: Tensor | None = None) -> VisualTokens:
        """Merge: tokens sent to the same place become one, their mean weighted by size.

        into (B, N) integers in [0, M); vectors (B, M, D) replace the means where a method blends in its
        own way. Places nobody is sent to vanish; the others line up in the order of their first patch.
        Raises ValueError for another shape, or no integers.
        """
        if into.shape != self.valid.shape or into.is_floating_point() or into.dtype == torch.bool:
            raise ValueError(
                f"merge() got {str(into.dtype).removeprefix('torch.')} {tuple(into.shape)}: want integers "
                f"{tuple(self.valid.shape)}, the place each token goes to"
            )
        weight = self.size.to(_accumulator(self.x.dtype)) * self.valid
        index = into.clamp(0, max(M - 1, 0))
        total = weight.new_zeros(into.shape[0], M).scatter_add(1, index, weight)
        if vectors is None:
            weighted = self.x.to(weight.dtype) * weight[..., None]
            summed = weighted.new_zeros(into.shape[0], M, self.x.shape[-1])
            summed = summed.scatter_add(1, index[..., None].expand_as(weighted), weighted)
            vectors = (summed / total.clamp(min=1)[..., None]).to(self.x.dtype)
        owner = self._follow(index.masked_fill(~self.valid, PADDING))
        return replace(self, x=vectors, owner=owner, valid=total > 0).in_order()

    def carry(self, x: Tensor) -> VisualTokens:
        """The same tokens with new vectors. x (B, N, any width)."""
        if x.shape[:2] != self.valid.shape:
            raise ValueError(
                f"carry() got vectors {tuple(x.shape)} for tokens {tuple(self.valid.shape)}"
            )
        return replace(self, x=x)

    def rows(self, index: Tensor) -> VisualTokens:
        """Some of the rows, or some of them several times. index (B',)."""
        return replace(self, x=self.x[index], owner=self.owner[index], valid=self.valid[index])

    def total(self, value: Tensor) -> Tensor:
        """Sum over the patches of each token. value (B, P, …) → (B, N, …)."""
        owned = (self.owner >= 0).reshape(*self.owner.shape, *[1] * (value.dim() - 2))
        index = self.owner.clamp(min=0).reshape(owned.shape).expand_as(value)
        out = value.new_zeros(*self.valid.shape, *value.shape[2:])
        return out.scatter_add(1, index, value.masked_fill(~owned, 0))

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the patches of each token. value (B, P, …) → (B, N, …); integers round down."""
        size = self.size.clamp(min=1).reshape(*self.valid.shape, *[1] * (value.dim() - 2))
        if value.is_floating_point():
            return (self.total(value.to(_accumulator(value.dtype))) / size).to(value.dtype)
        return self.total(value).div(size, rounding_mode="floor")

    def of_first(self, value: Tensor) -> Tensor:
        """What holds of the first patch of each token. value (B, P, …) → (B, N, …), anything for padding."""
        return pick(value, self.anchor.clamp(max=max(value.shape[1] - 1, 0)))

    def in_order(self) -> VisualTokens:
        """The same tokens in the order of their first patch, padding behind the longest row cut off."""
        order = self.anchor.argsort(dim=1, stable=True)[:, : int(self.counts.max())]
        place = torch.empty_like(self.valid, dtype=torch.long).fill_(DROPPED)
        rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
        owner = self._follow(place.scatter(1, order, rank))
        valid = self.valid.gather(1, order)
        x = pick(self.x, order).masked_fill(~valid[..., None], 0)
        return replace(self, x=x, owner=owner, valid=valid)

    def _follow(self, new: Tensor) -> Tensor:
        """Owners after every token i was renamed new[i]; what was dropped or padding stays so."""
        moved = new.gather(1, self.owner.clamp(min=0))
        return torch.where(self.owner < 0, self.owner, moved)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    """Sums of half-precision vectors are taken in float32."""
    return torch.promote_types(dtype, torch.float32)
