"""Calls that compression would get wrong silently, or fail at far from the mistake: told here, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.ops import described
from foveate.hosts import traits
from foveate.hosts.flow import Call

IGNORED = -100  # a label that no loss counts, and padding of instruction_ids
PIXELS = {"image": ("pixel_values", "pixel_values_images"), "video": ("pixel_values_videos",)}


def check(base: nn.Module, kwargs: dict[str, Any], call: Call, first: bool) -> None:
    """Raise for a call that cannot be right; first: no cache yet, so the call is a whole prompt.

    Raises NotImplementedError for what is not supported, with the way out, TypeError and ValueError for
    what is no call at all.
    """
    kernel = str(traits.decoder_of(base).config._attn_implementation or "")
    if "flex" in kernel or kernel.startswith("paged"):
        raise NotImplementedError(
            f"attention {kernel!r} is not supported: use sdpa, eager or flash"
        )
    _check_features(kwargs)
    ids = kwargs.get("input_ids")
    if ids is None:
        return
    if kwargs.get("inputs_embeds") is not None:
        raise ValueError("input_ids and inputs_embeds at once: pass input_ids alone")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        raise TypeError(f"input_ids: want integers (prompts, columns), got {described(ids)}")
    _check_mask(kwargs, ids, first)
    _check_like(call.labels, "labels", ids, exact=True)
    if first:  # later calls read no instruction; generate may pass them the prompt's
        _check_like(call.instruction_mask, "instruction_mask", ids, exact=False)
        if call.instruction_ids is not None:
            check_words(base, call.instruction_ids, "instruction_ids", len(ids))
    _check_positions(base, kwargs.get("position_ids"), ids)


def refuse_continuous(*args: Any, **kwargs: Any) -> None:
    """In the place of a compressed model's init_continuous_batching. Raises NotImplementedError."""
    raise NotImplementedError(
        "continuous batching (generate_batch) packs prompts into one row, where foveate drops nothing: call "
        "generate with padded batches, serve the model with vLLM and foveate[vllm], or foveate.restore(model)"
    )


def _check_features(kwargs: dict[str, Any]) -> None:
    given = kwargs.get("mm_encoder_outputs")
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise TypeError(f"mm_encoder_outputs: want outputs by modality, got {described(given)}")
    for modality, output in given.items():
        if output is not None and not hasattr(output, "pooler_output"):
            raise TypeError(
                f"mm_encoder_outputs[{modality!r}]: want what get_{modality}_features returns, got "
                f"{described(output)}"
            )
    for name in (name for names in PIXELS.values() for name in names):
        if kwargs.get(name) is not None:
            raise ValueError(f"{name} and mm_encoder_outputs at once: pass one of them")


def _check_mask(kwargs: dict[str, Any], ids: Tensor, first: bool) -> None:
    mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
    prepared = isinstance(mask, Mapping) or (isinstance(mask, Tensor) and mask.dim() > 2)
    if prepared:
        if not getattr(cache, "is_compileable", False):
            raise NotImplementedError(
                "a prepared 4-D attention_mask is not supported: pass the 2-D mask"
            )
        return
    if mask is None:
        return
    fits = isinstance(mask, Tensor) and mask.dim() == 2 and len(mask) == len(ids)
    if not fits or (mask.shape[1] != ids.shape[1] if first else mask.shape[1] < ids.shape[1]):
        raise ValueError(
            f"attention_mask: want {tuple(ids.shape)} like input_ids, got {described(mask)}"
        )


def _check_like(value: Any, name: str, ids: Tensor, exact: bool) -> None:
    if value is None:
        return
    fits = isinstance(value, Tensor) and value.dim() == 2 and len(value) == len(ids)
    if not fits or (value.shape[1] != ids.shape[1] if exact else value.shape[1] > ids.shape[1]):
        raise ValueError(f"{name}: want {tuple(ids.shape)} like input_ids, got {described(value)}")


def check_words(base: nn.Module, ids: Any, name: str, prompts: int) -> None:
    """Raise TypeError or ValueError unless ids (prompts, T) are of the vocabulary, or padding."""
    if not isinstance(ids, Tensor) or ids.dtype == torch.bool or ids.is_floating_point():
        raise TypeError(f"{name}: want integers (prompts, tokens), got {described(ids)}")
    if ids.dim() != 2 or len(ids) != prompts:
        raise ValueError(
            f"{name}: want ({prompts}, tokens), a row for each prompt, got {described(ids)}"
        )
    vocabulary = base.config.get_text_config().vocab_size
    fine = (ids >= 0) & (ids < vocabulary) | (ids == IGNORED) | traits.is_visual(base, ids)
    if not bool(fine.all()):
        raise ValueError(
            f"{name}: {int(ids[~fine][0])} is no token of a vocabulary of {vocabulary}; padding is {IGNORED}"
        )


def _check_positions(base: nn.Module, position: Any, ids: Tensor) -> None:
    if position is None:
        return
    B, S = ids.shape
    axes = (1, 3, 4) if hasattr(base, "get_rope_index") else ()
    shape = tuple(position.shape) if isinstance(position, Tensor) else ()
    fits = shape[-1:] == (S,) and (
        (len(shape) == 2 and shape[0] in (1, B))
        or (len(shape) == 3 and shape[0] in axes and shape[1] in (1, B))
    )
    if not fits:
        raise ValueError(
            f"position_ids: want ({B}, {S}) like input_ids"
            + (f", or (3 or 4, {B}, {S})" if axes else "")
            + f", got {described(position)}"
        )
