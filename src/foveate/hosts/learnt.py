"""The head where labels are learnt, and nowhere else: what a training step need not pay for a long prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from foveate.hosts.calls import IGNORED

# Arguments with which a call says itself what the head does.
OWN = ("logits_to_keep", "shift_labels", "fused_lm_head")


@contextmanager
def head_on_answers(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Inside, training forwards with labels run the head where a label is learnt: the same loss for less.

    A prompt's columns have no labels, but a head of 128,000 words runs over all of them, and where
    compression leaves a prompt few, it costs more than the layers do. The output's logits are then
    (B, columns, V), of the columns before a label that some row learns, and not (B, S, V): do not use it
    with a trainer that reads them, as TRL's does. Works on a model as it is and on a compressed one. Calls
    in evaluation, without labels or gradients, and calls with logits_to_keep are what they were.
    """
    handle = model.register_forward_pre_hook(_narrowed, with_kwargs=True, prepend=True)
    try:
        yield model
    finally:
        handle.remove()


def learnt(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The columns (n,) before a label that any row learns, and those labels (B, n). labels (B, S)."""
    following = nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    columns = (following != IGNORED).any(0).nonzero()[:, 0]
    return columns, following[:, columns]


def _narrowed(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    labels, training = kwargs.get("labels"), model.training and torch.is_grad_enabled()
    if labels is None or not training or any(kwargs.get(name) is not None for name in OWN):
        return None
    columns, labels = learnt(labels)
    return args, {**kwargs, "logits_to_keep": columns, "shift_labels": labels}
