"""What the training tests share: labelled batches, a data set of them, and weights to compare."""

from __future__ import annotations

import torch
from calling import last_words
from families import ONE, TWO


def labelled(family, prompts=(ONE, TWO), seed: int = 1) -> dict:
    """A batch whose last two columns are the answer."""
    inputs = family.inputs(prompts, seed=seed)
    return {**inputs, "labels": last_words(inputs)}


class Batches(torch.utils.data.Dataset):
    """Whole batches, numbered: trainers take a data set of n, and `together` to make one of them."""

    column_names = ("n",)  # TRL asks

    def __init__(self, family, n: int):
        self.family, self.n = family, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"n": i}

    def together(self, rows: list[dict]) -> dict:
        """One batch of as many prompts as rows."""
        seed = rows[0]["n"] + 1
        return labelled(self.family, (ONE, TWO)[: len(rows)], seed)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
