"""What one prefill costs: multiply-accumulates of each part of the model, cache bytes, equivalent tokens.

Counted from the shapes of the weights and from how many vectors pass each of them, so grouped queries,
three-matrix feed-forwards, tiles, windows and mergers need no case of their own. Matrix products only; a
FLOP count is twice the MAC count. Attention in the decoder is causal: a column meets itself and those
before it, L·(L+1)/2 pairs, not L² (`causal=False` counts what a kernel that does not skip the upper half
computes), and no more than a sliding window holds. The head is counted for one position, as `generate`
calls it. Mixtures of experts are counted as if every expert ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from foveate.core.compressor import Compressor, Tower
from foveate.hosts import encode, reading, traits
from foveate.hosts.glance import ATTENTION, asked_of

# What stands between a tower's width and the language model's, by the names families give it.
CONNECTORS = {"multi_modal_projector", "connector", "merger", "deepstack_merger_list"}


@dataclass(frozen=True)
class Load:
    """What passes a model in the prefill of one prompt, by the names of modules: it fits any built alike.

    rows     vectors that pass each weight outside the decoder
    pairs    queries times keys of each attention outside the decoder
    lengths  columns in each decoder layer
    text     columns of the prompt that are not visual
    """

    rows: Mapping[str, int]
    pairs: Mapping[str, int]
    lengths: tuple[int, ...]
    text: int

    @property
    def visual(self) -> tuple[int, ...]:
        """Visual columns in each decoder layer, newlines and breaks included."""
        return tuple(n - self.text for n in self.lengths)

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


class Own(NamedTuple):
    """MACs of the compressors' own matrix products: of those that are the connector, and of the others."""

    connector: int = 0
    scorer: int = 0


def connects(part: Compressor) -> bool:
    """Whether a compressor is the connector, or a piece of it: weights between tower and language model."""
    before = part.site.tower in (Tower.features, Tower.projector)
    return before and any(True for _ in part.parameters())


def skeleton(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> nn.Module:
    """The model of a config without its weights: enough to count, whatever its size."""
    with torch.device("meta"):
        return reading.untrained(config, dtype=dtype)


def watch(model: nn.Module, text: int, call: Callable[[], Any]) -> Load:
    """The load of one prompt, `text` of its columns not visual, seen while `call` prefills it."""
    base = traits.base_of(model)
    rows, pairs, lengths, handles = Counter(), Counter(), Counter(), []

    def on(module: nn.Module, note: Callable[[Tensor, Mapping[str, Any], Any], Any]) -> None:
        def hook(_: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            note(args[0] if args else kwargs.get("hidden_states"), kwargs, output)

        handles.append(module.register_forward_hook(hook, with_kwargs=True))

    for name, m in _weighted(base):
        on(m, lambda _, __, out, n=name, m=m: rows.update({n: out.numel() // _fan_out(m)}))
    for name, m in _attentions(base):
        on(m, lambda x, kwargs, _, n=name: pairs.update({n: _pairs(x, kwargs)}))
    for i, layer in enumerate(traits.decoder_of(base).layers):
        on(traits.attention_of(layer), lambda x, *_, i=i: lengths.update({i: x.shape[1]}))
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return Load(dict(rows), dict(pairs), tuple(lengths[i] for i in sorted(lengths)), text)


def cost(
    model: nn.Module,
    load: Load,
    parts: Iterable[Compressor] = (),
    own: Own | None = None,
    causal: bool = True,
) -> Cost:
    """The cost of a prefill with this load; the model may be a skeleton.

    parts: the compressors that act, for the attention rows they ask for; own: MACs of their own, as
    `own_macs` counts them. What makes a connector is in the connector's column, the rest in the scorer's.
    """
    base, own = traits.base_of(model), own or Own()
    text = base.config.get_text_config()
    width = text.num_attention_heads * _head_width(text)
    cached = 2 * (text.num_key_value_heads or text.num_attention_heads) * _head_width(text)
    language, held = _linear(model.get_output_embeddings()), 0
    for layer, n in zip(traits.decoder_of(base).layers, load.lengths, strict=True):
        window = getattr(traits.attention_of(layer), "sliding_window", None) or n
        language += n * _linear(layer) + 2 * width * (_causal(n, window) if causal else n * n)
        held += min(n, max(window - 1, 1)) if window < n else n
    vision, connector = _outside(base, load)
    return Cost(
        vision=vision,
        connector=connector + own.connector,
        scorer=own.scorer + sum(_rows(base, load, part, width) for part in parts),
        language=language,
        kv_bytes=held * cached * next(base.parameters()).element_size(),
        equivalent_tokens=load.equivalent,
    )


def own_macs(model: nn.Module, call: Callable[[], Any]) -> Own:
    """MACs of the matrix products inside the attached compressors while `call` runs."""
    compressor = traits.base_of(model).visual_compressor
    counter, spent = FlopCounterMode(display=False), Counter()
    begin: list[int] = []

    def enter(*_: Any) -> None:
        begin.append(counter.get_total_flops())

    def leave(part: Compressor, *_: Any) -> None:
        spent[connects(part)] += counter.get_total_flops() - begin.pop()

    parts = compressor.at(1.0).parts()
    handles = [part.register_forward_pre_hook(enter) for part in parts]
    handles += [part.register_forward_hook(leave) for part in parts]
    try:
        with counter, torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return Own(connector=spent[True] // 2, scorer=spent[False] // 2)


def _outside(base: nn.Module, load: Load) -> tuple[int, int]:
    """MACs of the tower and of the connector."""
    vision = connector = 0
    for name, module in _weighted(base):
        macs = load.rows.get(name, 0) * _weights(module)
        if CONNECTORS & set(name.split(".")):
            connector += macs
        else:
            vision += macs
    for name, module in _attentions(base):
        vision += 2 * load.pairs.get(name, 0) * _attention_width(module)
    return vision, connector


def _elsewhere(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module outside the decoder and the compressor, by its name."""
    inside = set(traits.decoder_of(base).modules())
    inside |= set(getattr(base, "visual_compressor", nn.Module()).modules())
    return ((name, m) for name, m in base.named_modules() if name and m not in inside)


def _weighted(base: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules outside the decoder that multiply what passes them with a matrix of their own."""
    return [(name, m) for name, m in _elsewhere(base) if _weights(m)]


def _attentions(base: nn.Module) -> list[tuple[str, nn.Module]]:
    """The attention modules outside the decoder."""
    return [(n, m) for n, m in _elsewhere(base) if hasattr(m, "q_proj") or hasattr(m, "qkv")]


def _weights(module: nn.Module) -> int:
    """MACs per vector in the module's own matrix; 0 if it has none."""
    if hasattr(module, "in_features") and not any(module.children()):
        return module.in_features * module.out_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.weight.numel()
    return matrix.numel() if (matrix := _bare_matrix(module)) is not None else 0


def _fan_out(module: nn.Module) -> int:
    """Channels of what the module puts out."""
    if (matrix := _bare_matrix(module)) is not None:
        return matrix.shape[-1]
    return getattr(module, "out_features", None) or module.out_channels


def _bare_matrix(module: nn.Module) -> Tensor | None:
    """A matrix that is a parameter of a module without being a layer: Gemma 3's projector."""
    plain = hasattr(module, "in_features") or hasattr(module, "num_embeddings")
    found = [] if plain else [p for p in module.parameters(recurse=False) if p.dim() == 2]
    return found[0] if found else None


def _pairs(x: Tensor, kwargs: Mapping[str, Any]) -> int:
    """Queries times keys: within each window or frame where they are packed, else within each row of x."""
    if (ends := kwargs.get("cu_seqlens")) is not None:
        return int(ends.diff().square().sum())
    return x.shape[:-2].numel() * x.shape[-2] ** 2


def _causal(n: int, window: int) -> int:
    """Pairs of n columns that look back, at most `window` columns far."""
    short = min(n, window)
    return short * (short + 1) // 2 + (n - short) * short


def _rows(base: nn.Module, load: Load, part: Compressor, width: int) -> int:
    """The attention rows that are computed a second time because a compressor asks for them."""
    macs = 0
    for field, index in sorted(map(asked_of, encode.of_tower([part]))):
        if field not in ATTENTION:
            continue
        attention = traits.attention_of(traits.block_of(base, index))
        name = next(n for n, m in _attentions(base) if m is attention)
        passed = max((r for n, r in load.rows.items() if n.startswith(f"{name}.")), default=0)
        alone = field != "received" and traits.has_class_token(base)
        macs += (passed if alone else load.pairs.get(name, 0)) * _attention_width(attention)
    layer = part.site.layer
    before = load.lengths[layer - 1] if part.site.tower == Tower.language else 0
    if "last_attention" in part.needs:
        macs += before * width
    if "own_attention" in part.needs:  # its attention's projections run once more, of what arrives
        attention = traits.attention_of(traits.decoder_of(base).layers[layer])
        macs += before * (width + _linear(attention))
    if "prompt_attention" in part.needs:  # as if every word spoke
        macs += load.text * before * width
    return macs


def _attention_width(attention: nn.Module) -> int:
    """Heads times their width: what the last projection reads."""
    return [m for m in attention.modules() if hasattr(m, "in_features")][-1].in_features


def _linear(module: nn.Module | None) -> int:
    """MACs per token of all linear layers inside: of the innermost where layers wrap layers."""
    if module is None:
        return 0
    leaves = (m for m in module.modules() if not any(m.children()))
    return sum(m.in_features * m.out_features for m in leaves if hasattr(m, "in_features"))


def _head_width(text: PreTrainedConfig) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
