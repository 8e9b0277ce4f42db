"""The order of an epoch: fresh every time, the same for the same seed and epoch.

Every epoch is whole batches, on however many devices and in however many parts a batch is computed:
the last one is filled up with the epoch's first records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class Order(Sampler[int]):
    """What the orders share: n records in batches, an epoch that is set, a seed."""

    def __init__(self, n: int, batch: int, seed: int):
        for name, given in (("n", n), ("batch", batch)):
            if given < 1:
                raise ValueError(f"{name}={given}: want at least 1")
        self.n, self.batch, self.seed, self.epoch = n, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch's."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        drawn = self.drawn(np.random.default_rng((self.seed, self.epoch)))
        return iter(np.resize(drawn, len(self)).tolist())

    def drawn(self, draw: np.random.Generator) -> np.ndarray:
        """Every record once. (n,)."""
        raise NotImplementedError


class Shuffled(Order):
    """Records in an order drawn from (seed, epoch); with shuffle=False as the file has them."""

    def __init__(self, n: int, batch: int = 1, seed: int = 0, shuffle: bool = True):
        super().__init__(n, batch, seed)
        self.shuffle = shuffle

    def drawn(self, draw: np.random.Generator) -> np.ndarray:
        """Every record once. (n,)."""
        return draw.permutation(self.n) if self.shuffle else np.arange(self.n)


class Grouped(Order):
    """Batches of images and batches of text, in mixed order. After LLaVA-1.5's training.

    Every `batch` consecutive indices, the batch of all devices and accumulated parts together, are of
    one modality: devices that share the work of a layer all need it or all do not. What each modality
    lacks to whole batches is filled up with its own first records. Liu et al. 2023, arXiv:2310.03744.
    has_images: (records,) bool.
    """

    def __init__(self, has_images: Sequence[bool] | np.ndarray, batch: int, seed: int = 0):
        super().__init__(len(has_images), batch, seed)
        self.has_images = np.asarray(has_images, dtype=bool)

    def __len__(self) -> int:
        with_images = int(self.has_images.sum())
        return sum(-(-n // self.batch) for n in (with_images, self.n - with_images)) * self.batch

    def drawn(self, draw: np.random.Generator) -> np.ndarray:
        """Every record, and some a second time. (len(self),)."""
        batches = []
        for kind in (np.flatnonzero(self.has_images), np.flatnonzero(~self.has_images)):
            whole = -(-len(kind) // self.batch) * self.batch
            batches.append(np.resize(draw.permutation(kind), whole).reshape(-1, self.batch))
        return draw.permutation(np.concatenate(batches)).ravel()
