"""Whole-number randomness that falls the same way on every machine and with every NumPy."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
# Eight coin flips are close enough to a bell curve: from -4 to 4, standard deviation 1.4.
_HEADS = np.array([bin(byte).count("1") - 4 for byte in range(256)], dtype=np.int16)


class Dice:
    """A stream of whole numbers fixed by its key.

    NumPy promises stable raw bits of a bit generator, not stable `Generator` methods: so raw bits.
    """

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        self._pool: list[int] = []

    def __call__(self, sides: int) -> int:
        """A number from 0 to sides - 1."""
        if not self._pool:
            self._pool = self._bits.random_raw(192).tolist()
        return self._pool.pop() % sides

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return low + self(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in so many cases of a hundred."""
        return self(100) < percent

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in random order."""
        left = list(options)
        return [left.pop(self(len(left))) for _ in range(len(left))]

    def grain(self, height: int, width: int) -> np.ndarray:
        """Integer noise with a bell-shaped distribution, (height, width), standard deviation 1.4."""
        raw = self._bits.random_raw(-(-height * width // 8)).astype("<u8").view(np.uint8)
        return _HEADS[raw[: height * width].reshape(height, width)]
