"""The hooks: when something is done. What is done stands in before.py and inside.py.

Hooks are small objects rather than closures, so that a compressed model pickles and deep-copies.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foveate.core.compressor import Compressor, Tower
from foveate.hosts import before, calls, inside, later, traits
from foveate.hosts.calls import PIXELS
from foveate.hosts.context import of_images
from foveate.hosts.encode import KEY as ENCODED
from foveate.hosts.flow import KEY, Flow
from foveate.hosts.glance import MergerAfter
from foveate.hosts.positions import entered_positions, gather_columns

# Arguments of a forward that are ours alone.
INSTRUCTION = ("instruction_mask", "instruction_ids")


def acts_before(part: Compressor) -> bool:
    """Whether a compressor acts before the language model."""
    return part.site.tower < Tower.language or part.site.layer == 0


def register(model: nn.Module, base: nn.Module, attachment: Any) -> list[Any]:
    """Put all hooks in place; returns their handles."""
    handles = [
        model.register_forward_pre_hook(OuterBefore(_parameters(model)), with_kwargs=True),
        model.register_forward_hook(OuterAfter(), with_kwargs=True),
        base.register_forward_pre_hook(BaseBefore(attachment, _parameters(base)), with_kwargs=True),
        base.register_forward_hook(BaseAfter(attachment), with_kwargs=True),
    ]
    decoder = traits.decoder_of(base)
    handles.append(decoder.register_forward_pre_hook(DecoderBefore(), with_kwargs=True))
    if (merger := traits.merger_of(base)) is not None:
        handles.append(merger.register_forward_hook(MergerAfter()))
    for i, layer in enumerate(decoder.layers):
        handles.append(layer.register_forward_pre_hook(LayerBefore(i), with_kwargs=True))
    return handles


def _parameters(module: nn.Module) -> tuple[str, ...]:
    """What a module's forward takes, in order."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


@dataclass(eq=False)
class OuterBefore:
    """Sends a Flow along with the call: the head knows what is an answer, the base model does not."""

    names: tuple[str, ...]

    def __call__(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """args, kwargs with the flow."""
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        kept = given.get("logits_to_keep", 0)
        flow = Flow(
            labels=given.get("labels"),
            **{name: kwargs.pop(name, None) for name in INSTRUCTION},
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
        if not isinstance(penalty, torch.Tensor):
            return output
        if torch.is_grad_enabled() and (labels is None or kwargs.get("fused_lm_head")):
            raise NotImplementedError(
                "this compressor adds a penalty to the loss, which a loss computed elsewhere (without "
                "labels, or from a fused head) would lose: call the whole model with labels"
            )
        if labels is None:
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
    names: tuple[str, ...]

    def __call__(self, base: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """No args, and the kwargs of the shorter call."""
        kwargs = {**dict(zip(self.names, args, strict=False)), **kwargs}
        flow = kwargs.setdefault(KEY, Flow())
        for name in INSTRUCTION:
            if (given := kwargs.pop(name, None)) is not None:
                setattr(flow, name, given)
        cache = kwargs.get("past_key_values")
        first = cache is None or cache.get_seq_length() == 0
        calls.check(base, kwargs, flow, first)
        flow.decoder = traits.decoder_of(base)
        flow.renumber = self.attachment.positions == "renumbered"
        flow.closed = self.attachment.newlines == "rows"
        flow.training, flow.step = base.training, self.attachment.step
        flow.traced = bool(self.attachment.traces)
        if first:
            self.attachment.counts = []
        if cache is not None and first:
            vars(cache).pop("visual_memory", None)  # a cache that was reset forgets its prompt
        if not first:
            self._later(base, kwargs, flow, cache)
        elif outputs := self._features(base, kwargs, flow):
            parts = self.attachment.acting(base)
            for part in parts:
                if not acts_before(part):
                    flow.inside.setdefault(part.site.layer, []).append(part)
            early = [part for part in parts if acts_before(part)]
            before.prefill(base, kwargs, early, flow, outputs)
        return (), kwargs

    def _features(self, base: nn.Module, kwargs: dict, flow: Flow) -> dict[str, Any]:
        """Encoded images and videos: those that came along, or those of the pixels that came."""
        ids = kwargs.get("input_ids")
        outputs = {}
        for modality in traits.modalities(base):
            output = (kwargs.get("mm_encoder_outputs") or {}).get(modality)
            pixels = [name for name in PIXELS[modality] if kwargs.get(name) is not None]
            if output is None and pixels and len(kwargs[pixels[0]]):
                encode = getattr(base, f"get_{modality}_features")
                names = inspect.signature(encode).parameters
                given = {n: kwargs[n] for n in names if n != "kwargs" and kwargs.get(n) is not None}
                output = encode(**given, return_dict=True)
            for name in pixels:
                flow.pixels.setdefault(modality, kwargs.pop(name))
            if output is not None and ENCODED not in output:
                raise NotImplementedError(
                    f"{modality} features that this model did not encode for compression, as a chunked "
                    f"prefill passes them: use prefill_chunk_size=None, or the outputs of this model's "
                    f"get_{modality}_features"
                )
            if output is not None:
                outputs[modality] = output
            elif ids is not None:
                count = int((ids == traits.placeholder_id(base, modality)).sum())
                if count and not all(part.keeps_all for part in self.attachment.acting(base)):
                    raise ValueError(
                        f"{count} {modality} placeholders, but no {modality}s: pass {PIXELS[modality][0]}, "
                        "and no prefill_chunk_size: a chunked prefill loses them. An assistant in assisted "
                        "decoding is never given any: foveate.restore(assistant), or let it keep all"
                    )
        if ids is None:
            raise NotImplementedError(
                "a prompt as inputs_embeds has no placeholders to compress: pass input_ids and pixel_values, "
                "or foveate.restore(model) first"
            )
        return outputs

    def _later(self, base: nn.Module, kwargs: dict, flow: Flow, cache: Any) -> None:
        memory = getattr(cache, "visual_memory", None)
        seen = any((kwargs.get("mm_encoder_outputs") or {}).values())
        seen = seen or any(
            kwargs.get(name) is not None for names in PIXELS.values() for name in names
        )
        if memory is not None and not seen:
            later.call(kwargs, memory, cache, flow)
        ids = kwargs.get("input_ids")
        if (
            ids is None or ids.shape[1] == 1
        ):  # a decoding step: nothing to look for, no wait for the device
            return
        if bool(traits.is_visual(base, ids).any()):
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
        last = flow.landed[max(flow.landed)][0] if flow.landed else flow.tokens
        self.attachment.counts = last.counts[: flow.images].tolist()  # of several beams, the first
        steps = [of_images(step, flow.images) for step in flow.steps]
        for seen in self.attachment.traces:
            seen.steps.extend(steps)


@dataclass(eq=False)
class DecoderBefore:
    """Notes the positions that enter the language model; takes over what is added to its first layers."""

    def __call__(self, decoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """args, kwargs."""
        flow: Flow | None = kwargs.get(KEY)
        if flow is None or not (flow.prefill or flow.memory is not None):
            return args, kwargs
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        hidden = kwargs["inputs_embeds"]
        flow.position = entered_positions(kwargs.get("position_ids"), hidden, past)
        if not flow.prefill:
            return args, kwargs
        deep = kwargs.get("deepstack_visual_embeds")
        if deep and flow.inside and min(flow.inside) < len(deep) + 1:
            kwargs = {**kwargs, "deepstack_visual_embeds": None}
            flow.deep = inside.deep_features(flow, kwargs["visual_pos_masks"], deep)
        return args, kwargs


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
            if 1 <= self.layer <= len(flow.deep):
                hidden = inside.deepen(flow, self.layer, hidden)
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
