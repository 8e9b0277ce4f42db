"""The hooks: when something is done. What is done stands in before.py and inside.py.

Hooks are small objects rather than closures, so that a compressed model pickles and deep-copies.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.compressor import Compressor
from foveate.hosts import (
    before,
    calls,
    encode,
    inside,
    later,
    prompted,
    proportional,
    traits,
    within,
)
from foveate.hosts.attachment import Attachment
from foveate.hosts.calls import PIXELS
from foveate.hosts.flow import KEY, Call, Flow, Later, Path, Prompt
from foveate.hosts.glance import MergerAfter
from foveate.hosts.positions import entered_positions, layer_type, window_of
from foveate.hosts.prompted import PromptGlance
from foveate.hosts.switches import Switches

# Kernels that read no position ids: gapped ones would be taken for packed sequences.
POSITIONLESS = ("sdpa", "eager")
# Arguments of a forward that are ours alone.
INSTRUCTION = ("instruction_mask", "instruction_ids")


def register(model: nn.Module, base: nn.Module, attachment: Attachment) -> list[Any]:
    """Put all hooks in place; returns their handles."""
    handles = [
        model.register_forward_pre_hook(OuterBefore(_parameters(model)), with_kwargs=True),
        model.register_forward_hook(OuterAfter(), with_kwargs=True),
        base.register_forward_pre_hook(BaseBefore(attachment, _parameters(base)), with_kwargs=True),
        base.register_forward_hook(BaseAfter(attachment), with_kwargs=True),
    ]
    decoder = traits.decoder_of(base)
    windowed = any(window_of(decoder, i) is not None for i in range(len(decoder.layers)))
    enters = DecoderBefore(attachment, windowed)
    handles.append(decoder.register_forward_pre_hook(enters, with_kwargs=True))
    handles += of_tower(base, base.visual_compressor)
    for i, layer in enumerate(decoder.layers if attachment.layered else ()):
        meets = LayerBefore(i, layer_type(decoder, i))
        handles.append(layer.register_forward_pre_hook(meets, with_kwargs=True))
    return handles


def of_tower(base: nn.Module, method: Compressor) -> list[Any]:
    """Put those in place that encoding takes, where this method does; returns their handles."""
    handles = within.register(base) if within.of(method.every()) else []
    if (merger := traits.merger_of(base)) is not None:
        handles.append(merger.register_forward_hook(MergerAfter()))
    return handles


def layered(base: nn.Module, method: Compressor, switches: Switches) -> bool:
    """Whether decoder layers are met on their way: where a compressor stands, or something weighs, in them.

    Also where a kernel reads position ids. Else no layer has a hook, and decoding costs none.
    """
    inside = any(part.site > before.ENTRY for part in method.every())
    return inside or switches.proportional or not _positionless(base)


def _positionless(base: nn.Module) -> bool:
    return (traits.decoder_of(base).config._attn_implementation or "eager") in POSITIONLESS


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
        call = Call(
            labels=given.get("labels"),
            **{name: kwargs.pop(name, None) for name in INSTRUCTION},
            logits_to_keep=kept if isinstance(kept, int) else 0,
            outer=True,
        )
        return args, {**kwargs, KEY: Flow(call)}


@dataclass(eq=False)
class OuterAfter:
    """Adds the penalty that compressors gathered to the training loss."""

    def __call__(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """The output, its loss with the penalty."""
        penalty, labels = kwargs[KEY].penalty, kwargs[KEY].call.labels
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

    attachment: Attachment
    names: tuple[str, ...]

    def __call__(self, base: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """No args, and the kwargs of the shorter call."""
        kwargs = {**dict(zip(self.names, args, strict=False)), **kwargs}
        flow = kwargs.pop(KEY, None) or Flow()
        given = {name: kwargs.pop(name, None) for name in INSTRUCTION}
        told = {name: value for name, value in given.items() if value is not None}
        flow.call = replace(flow.call, **told) if told else flow.call
        cache = kwargs.get("past_key_values")
        first = _empty(cache)
        calls.check(base, kwargs, flow.call, first)
        if self.attachment.switches.proportional:
            proportional.check(traits.decoder_of(base))
        if first and not (self.attachment.layered or _positionless(base)):
            raise ValueError(
                "the attention's kernel was changed after the method was attached: compress again"
            )
        if first:
            self.attachment.counts = []
            if cache is not None:  # one that was reset forgets its prompt
                vars(cache).pop("visual_memory", None)
            outputs, pixels, kwargs = encode.features(base, kwargs, self.attachment)
            if outputs:
                kwargs, flow.prompt = before.prefill(
                    base, kwargs, flow.call, self.attachment, outputs, pixels
                )
        else:
            kwargs, flow.later = self._later(base, kwargs, cache)
        return (), {**kwargs, KEY: flow}

    @torch.compiler.disable  # it waits for no data, and asks the cache for numbers
    def _later(self, base: nn.Module, kwargs: dict, cache: Any) -> tuple[dict, Later | None]:
        """The call on the cache's columns, and what layers above a cut must know of it."""
        memory, now = getattr(cache, "visual_memory", None), None
        pixels = [name for names in PIXELS.values() for name in names]
        seen = any((kwargs.get("mm_encoder_outputs") or {}).values())
        seen = seen or any(kwargs.get(name) is not None for name in pixels)
        if memory is not None and memory.layered and not self.attachment.layered:
            raise RuntimeError(
                "the cache holds a prompt that was shortened inside the language model, and this model's "
                "method only acts before it: start a new cache, or compress with the method that made it"
            )
        if memory is not None and not seen:
            kwargs, now = later.call(base, kwargs, memory, cache)
        ids = kwargs.get("input_ids")
        # A decoding step has nothing to look for, and no wait for the device.
        if ids is not None and ids.shape[1] > 1 and bool(traits.is_visual(base, ids).any()):
            raise NotImplementedError(
                f"new images on a cache that holds {cache.get_seq_length()} columns (a later turn, or a "
                "chunked prefill): start a new cache with the whole conversation"
            )
        return kwargs, now


@torch.compiler.disable  # a static cache answers with a tensor
def _empty(cache: Any) -> bool:
    return cache is None or int(cache.get_seq_length()) == 0


@dataclass(eq=False)
class BaseAfter:
    """Gives the output the length the caller knows, and notes what was seen."""

    attachment: Attachment

    def __call__(self, base: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """The output with last_hidden_state (B, S, D) of the uncompressed length."""
        flow: Flow = kwargs[KEY]
        hidden = output[0]
        if flow.prompt is not None:
            hidden = self._ended(flow, hidden)
            penalized = isinstance(flow.penalty, torch.Tensor) and torch.is_grad_enabled()
            if penalized and not flow.call.outer:
                raise NotImplementedError(
                    "this compressor adds a penalty to the loss, which a call of the base model alone "
                    "would lose: call the whole model with labels"
                )
        elif flow.later is not None and hidden.shape[1] < flow.later.fed:
            missing = flow.later.fed - hidden.shape[1]
            hidden = torch.cat([hidden[:, :1].expand(-1, missing, -1), hidden], dim=1)
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output.last_hidden_state = hidden
        return output

    @torch.compiler.disable
    def _ended(self, flow: Flow, hidden: Tensor) -> Tensor:
        images = flow.prompt.images.count  # of several beams, the first
        self.attachment.counts = flow.landings[-1].tokens.counts[:images].tolist()
        steps = [step.first(images) for landing in flow.landings for step in landing.steps]
        for seen in self.attachment.traces:
            seen.steps.extend(steps)
        return inside.stretched(flow.prompt, flow.path, hidden)


@dataclass(eq=False)
class DecoderBefore:
    """Notes the positions that enter the language model; takes over what is added to its first layers."""

    attachment: Attachment
    windowed: bool  # whether any layer looks back only so far

    def __call__(self, decoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """args, and kwargs with the flow where layers are met."""
        flow: Flow | None = kwargs.get(KEY)
        later = None if flow is None else flow.later
        same = later is not None and later.same and not self.windowed
        met = self.attachment.layered and not same
        if not met:
            kwargs = {name: value for name, value in kwargs.items() if name != KEY}
        if flow is None or (flow.prompt is None and not (met and later is not None)):
            return args, kwargs  # no layer asks where later columns stand
        return args, self._entered(flow, kwargs)

    @torch.compiler.disable
    def _entered(self, flow: Flow, kwargs: dict) -> dict:
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        flow.entered(entered_positions(kwargs.get("position_ids"), kwargs["inputs_embeds"], past))
        deep, prompt = kwargs.get("deepstack_visual_embeds"), flow.prompt
        if prompt is not None:
            flow.path.raters = prompted.raters(prompt, kwargs["inputs_embeds"])
        if deep and prompt and prompt.inside and min(prompt.inside) < len(deep) + 1:
            flow.path.deep = inside.deep_features(prompt, kwargs["visual_pos_masks"], deep)
            kwargs = {**kwargs, "deepstack_visual_embeds": None}
        return kwargs


@dataclass(eq=False)
class LayerBefore:
    """Shortens the sequence before this decoder layer, or hands the layer the short view."""

    layer: int
    kind: str  # as layer_type has it

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The layer's arguments for the sequence as short as it is here; None where they are."""
        flow: Flow | None = kwargs.pop(KEY, None)  # of this very call: nobody else has the dict
        if flow is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if flow.prompt is None:
            if flow.later is not None:
                kwargs.update(later.view(flow.later, self.layer, self.kind, hidden, kwargs))
            return args, kwargs
        hidden, kwargs = self._shortened(module, flow.prompt, flow.path, hidden, kwargs)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def _shortened(
        self, module: nn.Module, prompt: Prompt, path: Path, hidden: Tensor, kwargs: dict
    ) -> tuple[Tensor, dict]:
        layer = self.layer
        if 1 <= layer <= len(path.deep):
            hidden = inside.deepen(prompt, path.landing(layer), path.deep[layer - 1], hidden)
        if layer in prompt.inside:
            self._look_ahead(module, prompt, path, hidden, kwargs)
            cache = kwargs.get("past_key_values")
            hidden, landing = inside.shorten(prompt, path, layer, hidden, cache)
            path.landings[layer] = landing
            if not prompt.decoder.training:  # there, a checkpointed layer's hooks may run again
                path.previous.pop(layer, None)
            if landing.stage is not None:
                prompt.memory.stages[layer] = landing.stage.unseen
        stage = path.stage(layer)
        kwargs = inside.view(prompt, path, stage, layer, hidden, kwargs)
        if prompt.gapped or stage is not None:
            kwargs["position_ids"] = None  # gapped ids would be taken for packed sequences
        if (parts := prompt.inside.get(layer + 1)) is not None:
            kwargs[KEY] = glance = PromptGlance.of(prompt, path, stage, parts)
            path.glances[layer + 1] = glance
            if any("previous" in part.needs for part in parts):
                path.previous[layer + 1] = hidden.detach()
        return hidden, kwargs

    def _look_ahead(
        self, module: nn.Module, prompt: Prompt, path: Path, hidden: Tensor, kwargs: dict
    ) -> None:
        """Let compressors see what this layer itself would look at."""
        if any("own_attention" in part.needs for part in prompt.inside[self.layer]):
            stage = path.stage(self.layer - 1)
            kwargs = inside.view(prompt, path, stage, self.layer, hidden, kwargs)
            prompted.look_ahead(path.glances[self.layer], module, hidden, kwargs)
