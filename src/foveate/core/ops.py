"""Tensor algebra that more than one method needs: budgets, selection, windows, similarity."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from foveate.core.tokens import VisualTokens

Keep = int | float
# Of counts, sizes and seeds: beyond any model, and within every kernel's integers.
LARGEST = 2**31 - 1


def real(value: Any) -> int | float | None:
    """A number as Python's own int or float, numpy's too; None for what is none, such as a bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def check_keep(keep: Keep) -> Keep:
    """The budget itself if it can mean something: an int ≥ 1 (tokens) or a float in (0, 1] (share).

    Raises ValueError for 0, negative numbers, shares above 1, NaN and other types.
    """
    given = real(keep)
    whole = isinstance(given, int) and given >= 1
    share = isinstance(given, float) and 0 < given <= 1
    if not (whole or share):
        raise ValueError(
            f"keep={keep!r}: want an int >= 1 (tokens per image) or a float in (0, 1] (share of them)"
        )
    if given > LARGEST:
        raise ValueError(f"keep={keep!r}: want at most {LARGEST} tokens")
    return given


def whole(name: str, value: int, least: int = 1) -> int:
    """The value itself, a whole number from `least` to LARGEST. Raises ValueError otherwise."""
    given = real(value)
    if not isinstance(given, int) or given < least:
        raise ValueError(f"{name}={value!r}: want an int >= {least}")
    if given > LARGEST:
        raise ValueError(f"{name}={value!r}: want an int <= {LARGEST}")
    return given


def described(value: Any) -> str:
    """An argument in words: what it is and its shape, or how it begins."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return f"{type(value).__name__} {str(value)[:40]!r}"


def number(name: str, value: float, least: float = 0) -> float:
    """The value itself, a finite number of at least `least`. Raises ValueError otherwise."""
    given = real(value)
    if given is None or not least <= given < math.inf:
        raise ValueError(f"{name}={value!r}: want a number >= {least:g}")
    return given


def choice(name: str, value: Any, allowed: Collection[Any]) -> Any:
    """The value itself, one of those allowed. Raises ValueError otherwise."""
    if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        raise ValueError(f"{name}={value!r}: want one of {', '.join(map(str, allowed))}")
    return value


def refuse_unused(
    why: str,
    absent: Callable[..., Any],
    given: Mapping[str, Any],
    make: Callable[..., Any],
    besides: Collection[str] = (),
) -> None:
    """Raise ValueError for arguments that mean nothing, where they are not as `make` has them by default.

    absent: the part that is not there, whose arguments those are; besides: of them, what others take too.
    """
    defaults = inspect.signature(make).parameters
    for name in inspect.signature(absent).parameters.keys() & given.keys() - set(besides):
        value = tuple(given[name]) if isinstance(given[name], list) else given[name]
        if value != defaults[name].default:
            raise ValueError(f"{name}={given[name]!r} means nothing with {why}")


def budget(keep: Keep, count: Tensor) -> Tensor:
    """How many tokens stay of `count`: at most as many as there are, a share never rounds to none."""
    if isinstance(keep, int):
        return count.clamp(max=keep)
    return (keep * count.double() + 0.5).floor().long().clamp(min=1).minimum(count)


def stride_of(keep: Keep, dims: int = 1) -> int:
    """The stride that keeps this share of the tokens when it acts `dims` times: keep = 1/stride**dims.

    Raises ValueError for shares that are not of that form (within 2 %) and for numbers of tokens.
    """
    share = check_keep(keep)
    stride = round((1 / share) ** (1 / dims)) if isinstance(share, float) else 0
    if not stride or abs(share * stride**dims - 1) > 0.02:
        shares = ", ".join(f"{1 / s**dims:.3g}" for s in (1, 2, 3, 4, 5, 6, 8))
        squared = {1: "", 2: "²", 3: "³"}[dims]
        raise ValueError(f"keep={keep!r}: want a share of 1/stride{squared}: {shares}, …")
    return stride


def top(score: Tensor, keep: Keep | Tensor, valid: Tensor | None = None) -> Tensor:
    """(B, N) True at the highest scores of each row; equal scores go to the earlier token.

    score (B, N); keep: tokens, a share of the valid ones, or (B, 1) a number for each row; valid (B, N).
    """
    valid = torch.ones_like(score, dtype=torch.bool) if valid is None else valid
    n = keep if isinstance(keep, Tensor) else budget(keep, valid.sum(1, keepdim=True))
    score = score.float().nan_to_num(nan=-torch.inf)
    order = score.argsort(dim=1, descending=True, stable=True)
    # Padding goes last whatever its score, so that even a real score of -inf beats it.
    order = order.gather(1, (~valid).gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return (torch.empty_like(order).scatter(1, order, place) < n) & valid


def spread(keep: Keep, valid: Tensor) -> Tensor:
    """(B, N) True at `keep` valid tokens, evenly spaced: one in the middle of each equal share.

    Valid tokens stand first in a row, as in VisualTokens.
    """
    count = valid.sum(1, keepdim=True)
    n = budget(keep, count).clamp(min=1)
    share = torch.arange(valid.shape[1], device=valid.device)
    middle = ((2 * share + 1) * count).div(2 * n, rounding_mode="floor")
    chosen = (share < n) & (middle < count)
    hits = torch.zeros_like(valid, dtype=torch.long)
    return hits.scatter_add(1, middle.clamp(max=valid.shape[1] - 1), chosen.long()).bool() & valid


def every_few(rest: Tensor, n: Tensor) -> Tensor:
    """(B, N) True at n tokens of each row's rest, at equal steps from the first. rest (B, N), n (B, 1)."""
    step = (rest.sum(1, keepdim=True) // n.clamp(min=1)).clamp(min=1)
    rank = rest.cumsum(1) - 1
    return rest & (rank % step == 0) & (rank // step < n)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """What stands in these places of each row. x (B or 1, N, …), index (B, M) → (B, M, …)."""
    x = x.expand(len(index), *x.shape[1:])
    wide = index.reshape(*index.shape, *[1] * (x.dim() - 2))
    return x.gather(1, wide.expand(*index.shape, *x.shape[2:]))


def in_front(mask: Tensor, most: int) -> Tensor:
    """(…, most) the places of each row, those marked True first, all in order. mask (…, N) bool."""
    return (~mask).to(torch.uint8).argsort(dim=-1, stable=True)[..., :most]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of every row of a (…, N, D) with every row of b (…, M, D) → (…, N, M)."""
    unit = torch.nn.functional.normalize
    left = unit(a.float(), dim=-1)
    return left @ (left if b is a else unit(b.float(), dim=-1)).mT


def cosine_to_mean(x: Tensor, text: Tensor, said: Tensor) -> Tensor:
    """(B, N) cosine of every token to the mean word. x (B, N, D), text (B, T, D), said (B, T)."""
    total, count = (text * said[..., None]).sum(1, keepdim=True), said.sum(1)[:, None, None]
    return cosine(x, total / count.clamp(min=1))[..., 0]


def standing_out(x: Tensor, text: Tensor, said: Tensor, valid: Tensor) -> Tensor:
    """(B, N) each word's cosines, standardised over the valid tokens; of every token the largest.

    x (B, N, D), text (B, T, D), said (B, T), valid (B, N).
    """
    if not said.any():
        return text.new_zeros(valid.shape)
    count, there = valid.sum(1)[:, None, None].clamp(min=1), valid[..., None]
    alike = cosine(x, text)
    far = (alike - (alike * there).sum(1, keepdim=True) / count) * there
    deviation = (far.square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-6)
    return (far / deviation).masked_fill(~said[:, None], -torch.inf).amax(-1)


def windows(cell: Tensor, side: int | Tensor, valid: Tensor) -> tuple[Tensor, int]:
    """The window of `side` × `side` cells that each token stands in, and how many there may be.

    cell (B, N, 3) view, row and column of each token; side, or (B, 1) that of each image; valid (B, N).
    → (B, N) numbers in reading order, view by view. Tokens that stand outside of the grid, at row and
    column -1, have one of their own.
    """
    view, row, column = torch.where(valid[..., None], cell, 0).unbind(-1)
    row, column = (
        row.div(side, rounding_mode="floor") + 1,
        column.div(side, rounding_mode="floor") + 1,
    )
    rows, columns = (int(n.max()) + 1 if n.numel() else 1 for n in (row, column))
    window = (view * rows + row) * columns + column
    return window, int(window.max()) + 1 if window.numel() else 0


def windows_of(grid: Tensor, side: int, count: int) -> int | None:
    """How many windows of `side` × `side` cells an image has. grid (P, 3).

    None where `count` tokens are no longer its patches: nothing then says where they stand.
    """
    if side == 1 or count != len(grid):
        return count if side == 1 else None
    valid = torch.ones(1, count, dtype=torch.bool, device=grid.device)
    return len(windows(grid[None], side, valid)[0].unique())


def nearest(there: Tensor, side: int) -> Tensor:
    """For each cell of a window, which is the nearest that is there. there (…, side²) → (…, side²)."""
    cell = torch.arange(side * side, device=there.device)
    row, column = cell // side, cell % side
    steps = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    far = steps * len(cell) + cell  # of equally near ones the first
    return far.where(there[..., None, :], far.max() + 1).argmin(-1)


def windowed(tokens: VisualTokens, grid: Tensor, side: int) -> tuple[VisualTokens, Tensor]:
    """Windows of `side` × `side` cells as tokens, their means, and all cells of each: (B, M, side², D).

    grid (B, P, 3). Where a window is not full, its nearest token stands in for each that is missing.
    """
    cell = tokens.of_first(grid)
    merged = tokens.merge(*windows(cell, side, tokens.valid))
    M, cells = merged.x.shape[1], side**2
    row, column = (cell[..., 1:] % side).unbind(-1)
    place = tokens.of_first(merged.owner) * cells + row * side + column
    place = place.masked_fill(~tokens.valid, M * cells)  # behind the last window
    token = torch.arange(place.shape[1], device=place.device).expand_as(place)
    there = token.new_full((len(place), M * cells + 1), -1).scatter(1, place, token)
    there = there[:, :-1].unflatten(1, (M, cells))
    source = there.gather(2, nearest(there >= 0, side)).clamp(min=0).flatten(1)
    return merged, pick(tokens.x, source).unflatten(1, (M, cells))


def neighbours(cell: Tensor, valid: Tensor) -> Tensor:
    """(B, N, 9) the tokens in the 3 × 3 cells around each one, row by row; itself is the fifth.

    cell (B, N, 3) view, row and column of each token; valid (B, N). Where a cell is empty, over an edge of
    the grid or because its token was dropped, the nearest of the others stands in, as in padding by
    replication. Tokens outside of the grid, at row and column -1, and padding have only themselves.
    """
    view, row, column = torch.where(valid[..., None], cell, 0).unbind(-1)
    inside = valid & (row >= 0) & (column >= 0)
    rows, columns = (int(n.max()) + 3 if n.numel() else 3 for n in (row, column))  # with a margin
    place = ((view * rows + row + 1) * columns + column + 1).masked_fill(~inside, 0)
    token = torch.arange(cell.shape[1], device=cell.device).expand_as(place)
    cells = rows * columns * (int(view.max()) + 1 if view.numel() else 1)
    held = token.masked_fill(~inside, -1)
    table = token.new_full((len(cell), cells), -1).scatter(1, place, held)
    table[:, :1] = -1  # a corner of the margin, where tokens outside of the grid were sent
    step = torch.arange(-1, 2, device=cell.device)
    around = (step[:, None] * columns + step).flatten()
    there = table.gather(1, (place[..., None] + around).clamp(min=0).flatten(1)).unflatten(
        1, (-1, 9)
    )
    found = there.gather(2, nearest(there >= 0, 3))
    return torch.where(inside[..., None], found, token[..., None])
