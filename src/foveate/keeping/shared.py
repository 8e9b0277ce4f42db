"""Work that several processes share through a folder: nobody does what another does, and no one is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from foveate.keeping.held import HeldError, held

T = TypeVar("T")
PAUSE = 0.2  # seconds until what others hold is looked at again


class Ranks(NamedTuple):
    """Which of how many processes this is, as torchrun, accelerate and srun's wrappers say it."""

    rank: int = 0
    of: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """From RANK and WORLD_SIZE."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks."""
        return self.rank == 0

    def order(self, items: Sequence[T]) -> list[T]:
        """The items of this process first, every so many-th, then those of the others, to help them."""
        own = [*range(self.rank, len(items), self.of)]
        rest = sorted({*range(len(items))} - {*own})
        return [items[n] for n in (*own, *rest)]


def shared(
    items: Sequence[T],
    done: Callable[[T], bool],
    path: Callable[[T], Path | None],
    ranks: Ranks = Ranks(),  # noqa: B008 - a tuple
) -> Iterator[T]:
    """Yield every item that is to be made here, which is held meanwhile; end when all are done.

    done says whether an item is there, whoever made it; path is what is held for it, None for nothing.
    What a process holds that dies is free again, and whoever comes by makes it.
    """
    left = ranks.order(items)
    while left:
        later = []
        for item in left:
            if done(item):
                continue
            try:
                with held(path(item)):
                    if not done(item):
                        yield item
            except HeldError:
                later.append(item)
        left = later
        if left:
            time.sleep(PAUSE)
