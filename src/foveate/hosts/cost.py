"""What one prefill costs: multiply-accumulates of each part of the model, cache bytes, equivalent tokens.

Counted from the shapes of the modules, so grouped queries and three-matrix feed-forwards need no case of
their own. Matrix products only; a FLOP count is twice the MAC count. Attention is causal: a column meets
itself and those before it, L·(L+1)/2 pairs, not L² (`causal=False` counts what a kernel that does not
skip the upper half computes). The head is counted for one position, as `generate` calls it. Mixtures of
experts are counted as if every expert ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from foveate.compressor import Compressor, Tower
from foveate.hosts import traits
from foveate.hosts.trace import Step


@dataclass(frozen=True)
class Load:
    """How many tokens pass each part of a model in the prefill of one prompt.

    tower      tokens of each image in the vision tower, class token included
    connector  visual tokens that pass the projector
    text       columns of the prompt that are not visual
    visual     visual tokens in each decoder layer
    """

    tower: tuple[int, ...]
    connector: int
    text: int
    visual: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The sequence length in each decoder layer."""
        return tuple(self.text + n for n in self.visual)

    @property
    def equivalent(self) -> float:
        """Equivalent tokens: the visual tokens of a layer, averaged over the layers."""
        return sum(self.visual) / len(self.visual)


@dataclass(frozen=True)
class Cost:
    """MACs of one prefill by part, bytes of the cache it leaves, and its equivalent tokens."""

    vision: int
    connector: int
    scorer: int
    language: int
    kv_bytes: int
    equivalent_tokens: float

    @property
    def total(self) -> int:
        """MACs of all parts together."""
        return self.vision + self.connector + self.scorer + self.language

    @property
    def flops(self) -> int:
        """Floating-point operations: two to a MAC."""
        return 2 * self.total

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the totals."""
        return {**asdict(self), "total": self.total, "flops": self.flops}


def skeleton(config: PreTrainedConfig) -> nn.Module:
    """The model of a config without its weights: enough to count, whatever its size."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def load(
    model: nn.Module,
    text: int,
    patches: Sequence[int],
    steps: Iterable[Step] = (),
    which: Sequence[int] | None = None,
) -> Load:
    """The load of one prompt: `text` other columns, and for each of its images its number of patches.

    steps: what `foveate.trace` saw of one prefill; none is the bare model. which: the prompt's images
    among those of the steps, where the prefill held more prompts than this one.
    """
    base = traits.base_of(model)
    depth = len(traits.decoder_of(base).layers)
    which = list(range(len(patches)) if which is None else which)
    now = connector = sum(patches)
    visual = [now] * depth
    for step in steps:
        now = int(step.after[which].sum())
        tower, layer = step.site
        if tower < Tower.projector:
            connector = now
        elif tower == Tower.projector:
            connector = 0  # the compressor stands in its place
        first = layer if tower == Tower.language else 0
        visual[first:] = [now] * (depth - first)
    extra = int(traits.has_class_token(base))
    return Load(tuple(p + extra for p in patches), connector, text, tuple(visual))


def cost(
    model: nn.Module,
    load: Load,
    parts: Iterable[Compressor] = (),
    own: int = 0,
    causal: bool = True,
) -> Cost:
    """The cost of a prefill with this load.

    parts: the compressors that act, for the attention rows they ask for; own: MACs of their own, as
    `own_macs` counts them. Together these two are the scorer's column.
    """
    base = traits.base_of(model)
    text = base.config.get_text_config()
    width = text.num_attention_heads * _head_width(text)
    cached = 2 * (text.num_key_value_heads or text.num_attention_heads) * _head_width(text)
    language = _linear(model.get_output_embeddings())
    for layer, n in zip(traits.decoder_of(base).layers, load.lengths, strict=True):
        pairs = n * (n + 1) // 2 if causal else n * n
        language += n * _linear(layer) + 2 * pairs * width
    itemsize = next(base.parameters()).element_size()
    return Cost(
        vision=sum(_vision(base, n) for n in load.tower),
        connector=load.connector * _linear(getattr(base, "multi_modal_projector", None)),
        scorer=own + sum(_rows(base, load, part, width) for part in parts),
        language=language,
        kv_bytes=sum(load.lengths) * cached * itemsize,
        equivalent_tokens=load.equivalent,
    )


def own_macs(model: nn.Module, call: Callable[[], Any]) -> int:
    """MACs of the matrix products inside the attached compressor while `call` runs."""
    compressor = traits.base_of(model).visual_compressor
    counter, spent = FlopCounterMode(display=False), 0
    begin: list[int] = []

    def enter(*_: Any) -> None:
        begin.append(counter.get_total_flops())

    def leave(*_: Any) -> None:
        nonlocal spent
        spent += counter.get_total_flops() - begin.pop()

    parts = compressor.at(1.0).parts()
    handles = [part.register_forward_pre_hook(enter) for part in parts]
    handles += [part.register_forward_hook(leave) for part in parts]
    try:
        with counter, torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return spent // 2


def _vision(base: nn.Module, tokens: int) -> int:
    """One image in the tower: patch embedding, then every block; attention sees all of its tokens."""
    tower = traits.tower_of(base)
    convolutions = (m for m in tower.modules() if isinstance(m, nn.Conv2d))
    patches = tokens - int(traits.has_class_token(base))
    macs = sum(patches * m.weight.numel() for m in convolutions)
    width = base.config.vision_config.hidden_size
    return macs + sum(
        tokens * _linear(block) + 2 * tokens**2 * width for block in traits.tower_blocks(base)
    )


def _rows(base: nn.Module, load: Load, part: Compressor, width: int) -> int:
    """The attention rows that are computed a second time because a compressor asks for them."""
    macs = 0
    if "cls_attention" in part.needs:
        tower = base.config.vision_config.hidden_size
        rows = [1 if traits.has_class_token(base) else n for n in load.tower]
        macs += sum(r * n * tower for r, n in zip(rows, load.tower, strict=True))
    seen = load.lengths[part.site.layer - 1] if part.site.tower == Tower.language else 0
    if "last_attention" in part.needs:
        macs += seen * width
    if "prompt_attention" in part.needs:
        macs += load.text * seen * width
    return macs


def _linear(module: nn.Module | None) -> int:
    """MACs per token of all linear layers inside: of the innermost where layers wrap layers."""
    if module is None:
        return 0
    leaves = (m for m in module.modules() if not any(m.children()))
    return sum(m.in_features * m.out_features for m in leaves if hasattr(m, "in_features"))


def _head_width(text: PreTrainedConfig) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
