"""The tokens that hold some characters of a text whose images were put in by a processor.

Where a token stands is counted in characters: the processor says which characters it put in the place
of each image ("moves"), the tokenizer which characters each token holds ("offsets").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foveate.chat.said import Said, Span

if TYPE_CHECKING:
    from torch import Tensor


def columns(offsets: Tensor, spans: Sequence[Span], moves: Sequence[dict] = ()) -> Tensor:
    """The tokens that hold a character of a span of the text before its moves. offsets (S, 2); (S,) bool."""
    first, last = offsets.T
    found = first.new_zeros(len(first)).bool()
    for start, stop in (moved(span, moves) for span in spans):
        found |= (first < stop) & (last > start) & (last > first)
    return found


def moved(span: Span, moves: Sequence[dict]) -> Span:
    """A span of the text as it was, in the text with its images' placeholders."""
    start, stop = span
    shift = sum(growth(move) for move in moves if move["span"][1] <= start)
    return start + shift, stop + shift


def growth(move: dict) -> int:
    """Characters that one image's placeholders add."""
    (start, stop), (first, last) = move["span"], move["new_span"]
    return (last - first) - (stop - start)


def verify(said: Said, images: int, moves: Sequence[dict], offsets: Tensor, where: str) -> None:
    """Raise ValueError unless the processor changed the text in the places it names and nowhere else."""
    length = len(said.text) + sum(map(growth, moves))
    if len(moves) != images or int(offsets.max()) != length:
        raise ValueError(
            f"{where}: the processor names {len(moves)} places of {images} images and "
            f"reads {int(offsets.max())} of {length} characters; its labels cannot be found"
        )
