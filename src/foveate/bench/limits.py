"""How far from the ideal: the same model on a prompt that never had more tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.clock import Advance, Ratio, Timing, interleaved, ratio, twin
from foveate.compressor import Compressor
from foveate.hosts import traits
from foveate.hosts.attach import compress, is_compressed
from foveate.methods import FastV, Stride
from foveate.ops import Keep, budget

# What the host may cost at 25 % kept: a median for the first two, the lower 95 % bound for the idle ones.
BARS = {"before": 1.05, "inside": 1.05, "idle_before": 1.02, "idle_inside": 1.02}


def prefill(model: nn.Module, inputs: Mapping[str, Any]) -> Callable[[], Any]:
    """The call that reads one prompt as `generate` does: with a cache, logits of the last position."""
    return lambda: model(**inputs, use_cache=True, logits_to_keep=1)


def prefill_ratio(
    model: nn.Module, inputs: Mapping[str, Any], method: Compressor, pairs: int = 10
) -> Ratio:
    """Prefill with a method against the uncompressed model, in the same run; the model stays bare."""
    small = compress(twin(_bare(model)), method)
    calls = {"method": prefill(small, inputs), "bare": prefill(model, inputs)}
    timings = interleaved(calls, pairs)
    return ratio(timings["method"], timings["bare"])


def short_prefill(model: nn.Module, inputs: Mapping[str, Any], keep: Keep) -> Callable[[], Any]:
    """The prefill of a physically short prompt: fewer placeholders, and features to match.

    The vision tower runs on the whole image, as it does under compression. One prompt, one image.
    """
    base = traits.base_of(model)
    ids = inputs["input_ids"]
    visual = ids == traits.placeholder_id(base)
    kept = int(budget(keep, visual.sum()))
    short = ids[:, (~visual | (visual.cumsum(1) <= kept))[0]]
    names = inspect.signature(base.get_image_features).parameters
    seen = {k: v for k, v in inputs.items() if k in names}

    def call() -> Any:
        output = base.get_image_features(**seen, return_dict=True)
        output.pooler_output = [x[:kept] for x in output.pooler_output]
        given = {"input_ids": short, "attention_mask": torch.ones_like(short)}
        encoded = {"image": output}
        return model(**given, mm_encoder_outputs=encoded, use_cache=True, logits_to_keep=1)

    return call


def limits(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    keep: Keep = 0.25,
    layer: int = 2,
    pairs: int = 30,
    advance: Advance | None = None,
) -> dict[str, dict[str, Any]]:
    """Ratios to the limit, with the host as what is measured.

    before       Stride(keep) against the short prompt
    inside       FastV(keep, layer) against the short and the long prompt, weighted by their layers
    idle_before  Stride(1.0) against the bare model
    idle_inside  FastV(1.0, layer) against the bare model
    """
    model = _bare(model)

    def small(method: Compressor) -> Callable[[], Any]:
        return prefill(compress(twin(model), method), inputs)

    bare, short = prefill(model, inputs), short_prefill(model, inputs, keep)
    calls = {"stride": small(Stride(keep)), "fastv": small(FastV(keep, layer))}
    cut = interleaved({"bare": bare, "short": short, **calls}, pairs, advance=advance)
    idle = {"stride": small(Stride(1.0)), "fastv": small(FastV(1.0, layer))}
    whole = interleaved({"bare": bare, **idle}, pairs, advance=advance)

    share = layer / len(traits.decoder_of(traits.base_of(model)).layers)
    ideal = [_between(*pair, share) for pair in zip(cut["bare"], cut["short"], strict=True)]
    found = {
        "before": ratio(cut["stride"], cut["short"]),
        "inside": ratio(cut["fastv"], ideal),
        "idle_before": ratio(whole["stride"], whole["bare"]),
        "idle_inside": ratio(whole["fastv"], whole["bare"]),
    }
    return {name: {**asdict(value), "bar": BARS[name]} for name, value in found.items()}


def _between(full: Timing, short: Timing, share: float) -> Timing:
    """A share of the layers at full length, the others short; tower and head are alike in both."""
    return Timing(*(share * f + (1 - share) * s for f, s in zip(full, short, strict=True)))


def _bare(model: nn.Module) -> nn.Module:
    if is_compressed(model):
        raise ValueError(
            "this model is compressed already: foveate.restore(model) before measuring"
        )
    return model
