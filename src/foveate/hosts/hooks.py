"""The hooks: when something is done. What is done stands in before.py and inside.py.

Hooks are small objects rather than closures, so that a compressed model pickles and deep-copies.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foveate.compressor import Compressor, Tower
from foveate.hosts import before, inside, later, traits
from foveate.hosts.context import of_images
from foveate.hosts.encode import IMAGE_COUNT
from foveate.hosts.flow import KEY, Flow
from foveate.hosts.positions import gather_columns

PIXELS = ("pixel_values", "image_sizes", "pixel_attention_mask", "image_grid_thw")


def acts_before(part: Compressor) -> bool:
    """Whether a compressor acts before the language model."""
    return part.site.tower < Tower.language or part.site.layer == 0


def register(model: nn.Module, base: nn.Module, attachment: Any) -> list[Any]:
    """Put all hooks in place; returns their handles."""
    handles = [
        model.register_forward_pre_hook(OuterBefore(), with_kwargs=True),
        model.register_forward_hook(OuterAfter(), with_kwargs=True),
        base.register_forward_pre_hook(BaseBefore(attachment), with_kwargs=True),
        base.register_forward_hook(BaseAfter(attachment), with_kwargs=True),
    ]
    for i, layer in enumerate(traits.decoder_of(base).layers):
        handles.append(layer.register_forward_pre_hook(LayerBefore(i), with_kwargs=True))
    return handles


@functools.cache
def _parameters(cls: type[nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(cls.forward).parameters)[1:]


@dataclass(eq=False)
class OuterBefore:
    """Sends a Flow along with the call: the head knows what is an answer, the base model does not."""

    def __call__(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """args, kwargs with the flow."""
        given = {**dict(zip(_parameters(type(model)), args, strict=False)), **kwargs}
        kept = given.get("logits_to_keep", 0)
        flow = Flow(
            labels=given.get("labels"),
            instruction_mask=kwargs.pop("instruction_mask", None),
            logits_to_keep=kept if isinstance(kept, int) else 0,
            outer=True,
        )
        return args, {**kwargs, KEY: flow}


@dataclass(eq=False)
class OuterAfter:
    """Adds the penalty that compressors gathered to the training loss."""

    def __call__(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """The output, its loss with the penalty."""
        penalty = kwargs[KEY].penalty
        labels = kwargs[KEY].labels
        if not isinstance(penalty, torch.Tensor) or labels is None:
            return output
        if (items := kwargs.get("num_items_in_batch")) is not None:
            # The loss is this micro-batch's share of an optimizer step; so is the penalty.
            penalty = penalty * ((labels[:, 1:] != -100).sum() / items)
        if isinstance(output, tuple):
            return (output[0] + penalty.to(output[0]), *output[1:])
        output.loss = output.loss + penalty.to(output.loss)
        return output


@dataclass(eq=False)
class BaseBefore:
    """Compresses a prompt before the language model, or brings a later call to the cache's columns."""

    attachment: Any

    def __call__(self, base: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """No args, and the kwargs of the shorter call."""
        kwargs = {**dict(zip(_parameters(type(base)), args, strict=False)), **kwargs}
        flow = kwargs.setdefault(KEY, Flow())
        flow.instruction_mask = kwargs.pop("instruction_mask", flow.instruction_mask)
        _refuse(base, kwargs)
        flow.decoder = traits.decoder_of(base)
        flow.renumber = self.attachment.positions == "renumbered"
        flow.training, flow.step = base.training, self.attachment.step
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() == 0:
            vars(cache).pop("visual_memory", None)  # a cache that was reset forgets its prompt
        if cache is not None and cache.get_seq_length() > 0:
            self._later(base, kwargs, flow, cache)
        elif (output := self._features(base, kwargs)) is not None:
            parts = self.attachment.acting(base)
            for part in parts:
                if not acts_before(part):
                    flow.inside.setdefault(part.site.layer, []).append(part)
            flow.prefill = True
            before.prefill(base, kwargs, [p for p in parts if acts_before(p)], flow, output)
        return (), kwargs

    def _features(self, base: nn.Module, kwargs: dict) -> Any:
        """Encoded images: those that came along, or those of the pixels that came; None without images."""
        ids = kwargs.get("input_ids")
        output = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if output is None and kwargs.get("pixel_values") is not None:
            names = inspect.signature(base.get_image_features).parameters
            given = {n: kwargs[n] for n in names if n != "kwargs" and kwargs.get(n) is not None}
            output = base.get_image_features(**given, return_dict=True)
            for name in PIXELS:
                kwargs.pop(name, None)
        if ids is None:
            raise NotImplementedError(
                "a prompt as inputs_embeds has no placeholders to compress: pass input_ids and pixel_values, "
                "or foveate.restore(model) first"
            )
        if output is not None and IMAGE_COUNT not in output:
            raise NotImplementedError(
                "image features that this model did not encode for compression, as a chunked prefill passes "
                "them: use prefill_chunk_size=None, or the outputs of this model's get_image_features"
            )
        if output is None and bool((ids == traits.placeholder_id(base)).any()):
            count = int((ids == traits.placeholder_id(base)).sum())
            raise ValueError(f"{count} image placeholders, but no images: pass pixel_values")
        return output

    def _later(self, base: nn.Module, kwargs: dict, flow: Flow, cache: Any) -> None:
        memory = getattr(cache, "visual_memory", None)
        features = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if memory is not None and features is None and kwargs.get("pixel_values") is None:
            later.call(kwargs, memory, cache, flow)
        ids = kwargs.get("input_ids")
        if (
            ids is None or ids.shape[1] == 1
        ):  # a decoding step: nothing to look for, no wait for the device
            return
        if bool((ids == traits.placeholder_id(base)).any()):
            raise NotImplementedError(
                f"new images on a cache that holds {cache.get_seq_length()} columns (a later turn, or a "
                "chunked prefill): start a new cache with the whole conversation"
            )


@dataclass(eq=False)
class BaseAfter:
    """Gives the output the length the caller knows, and notes what was seen."""

    attachment: Any

    def __call__(self, base: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """The output with last_hidden_state (B, S, D) of the uncompressed length."""
        flow: Flow = kwargs[KEY]
        hidden = output[0]
        if flow.prefill:
            stage = flow.stage(len(flow.decoder.layers))
            if stage is not None:
                hidden = gather_columns(hidden, stage.back)
            if flow.cut is not None:
                hidden = flow.cut.stretch(hidden)
            self._note(flow)
            if (
                isinstance(flow.penalty, torch.Tensor)
                and not flow.outer
                and torch.is_grad_enabled()
            ):
                raise NotImplementedError(
                    "this compressor adds a penalty to the loss, which a call of the base model alone "
                    "would lose: call the whole model with labels"
                )
        elif flow.fed is not None and hidden.shape[1] < flow.fed:
            missing = flow.fed - hidden.shape[1]
            hidden = torch.cat([hidden[:, :1].expand(-1, missing, -1), hidden], dim=1)
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output.last_hidden_state = hidden
        return output

    def _note(self, flow: Flow) -> None:
        first = (flow.prompt % flow.copies == 0).cpu()  # of several beams, the first
        last = flow.landed[max(flow.landed)][0] if flow.landed else flow.tokens
        self.attachment.counts = last.counts[first].tolist()
        steps = [of_images(step, first) for step in flow.steps]
        for seen in self.attachment.traces:
            seen.steps.extend(steps)


@dataclass(eq=False)
class LayerBefore:
    """Shortens the sequence before this decoder layer, or hands the layer the short view."""

    layer: int

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The layer's arguments for the sequence as short as it is here."""
        flow: Flow | None = kwargs.get(KEY)
        if flow is None:
            return args, kwargs
        kwargs = {k: v for k, v in kwargs.items() if k != KEY}
        hidden = args[0] if args else kwargs["hidden_states"]
        if flow.prefill:
            if self.layer in flow.inside:
                hidden = inside.shorten(flow, self.layer, hidden, kwargs)
            if (stage := flow.stage(self.layer)) is not None:
                inside.view(flow, stage, self.layer, hidden, kwargs)
            if flow.gapped or stage is not None:
                kwargs["position_ids"] = None  # gapped ids would be taken for packed sequences
            if self.layer + 1 in flow.inside:
                kwargs[KEY] = flow
        elif flow.memory is not None:
            later.view(flow, flow.memory, self.layer, hidden, kwargs)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}


def _refuse(base: nn.Module, kwargs: dict) -> None:
    """Calls that compression would get wrong silently."""
    kernel = str(traits.decoder_of(base).config._attn_implementation or "")
    if "flex" in kernel or kernel.startswith("paged"):
        raise NotImplementedError(
            f"attention {kernel!r} is not supported: use sdpa, eager or flash"
        )
    mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
    prepared = isinstance(mask, torch.Tensor) and mask.dim() > 2
    if prepared and not getattr(cache, "is_compileable", False):
        raise NotImplementedError(
            "a prepared 4-D attention_mask is not supported: pass the 2-D mask"
        )
