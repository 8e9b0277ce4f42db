"""Images and questions in, what enters the language model out: for engines that go on from there.

Letters: B prompts, S columns, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate.hosts import attach, features, traits

# What a decoder is told that an engine has by itself, or is handed.
HEARD = {
    "attention_mask",
    "inputs_embeds",
    "past_key_values",
    "position_ids",
    "return_dict",
    "use_cache",
}


def prompts(model: nn.Module, **inputs: Tensor) -> list[Tensor]:
    """What enters the language model of each prompt of a batch, without padding: (S, D) each.

    The model may lack its decoder layers, as `reading.headless` has it; inputs: as its processor makes them.

    Raises ValueError for methods inside the language model and for prompts that are more than a row of
    vectors: with positions or masks of their own, or with features for later layers.
    """
    base = traits.base_of(model)
    if attach.is_compressed(model):
        features.check_place(base.visual_compressor)
        if base.visual_attachment.switches.proportional:
            raise ValueError("attention='proportional' is a mask in every layer, and vLLM has none")
    with torch.inference_mode(), _noted(traits.decoder_of(base)) as told:
        base(**inputs, use_cache=False)
    (call,) = told
    _check_heard(base, call)
    x, mask = call["inputs_embeds"], call.get("attention_mask")
    valid = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask.bool()
    _check_counted(call.get("position_ids"), valid)
    return [row[real] for row, real in zip(x, valid, strict=True)]


@contextmanager
def _noted(decoder: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """The keywords of the decoder's calls inside."""
    told: list[dict[str, Any]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        told.append({name: value for name, value in kwargs.items() if value is not None})

    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield told
    finally:
        handle.remove()


def _check_heard(base: nn.Module, call: dict[str, Any]) -> None:
    """Raise ValueError where the decoder hears more than vectors in a row."""
    kind, mask = base.config.model_type, call.get("attention_mask")
    if more := sorted(call.keys() - HEARD):
        raise ValueError(
            f"{kind} hands its decoder {more[0]}, and vLLM takes a prompt's vectors alone"
        )
    if not (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)):
        raise ValueError(
            f"the visual tokens of {kind} look at those behind them, and vLLM would let a prompt look back "
            "alone"
        )


def _check_counted(position: Tensor | None, valid: Tensor) -> None:
    """Raise ValueError unless positions, (B, S) or (A, B, S), go up by one. valid (B, S)."""
    if position is None:
        return
    number = valid.cumsum(1) - 1
    ahead = position - number
    first = ahead.masked_fill(~valid, ahead.max()).amin(-1, keepdim=True)
    if bool(((ahead != first) & valid).any()):
        raise ValueError(
            "vLLM counts the positions of a prompt that is made in front anew, and this one has its own. Of "
            "kept tokens, say --positions renumbered; of a whole image in three dimensions, use vLLM alone"
        )
