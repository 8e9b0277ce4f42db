"""What can be counted rather than timed: tokens per layer, MACs by part, cache bytes.

All counts are those of one prompt. A model too large to run is counted on a narrow twin: the same config
with one head and little width, run with the method attached, so that exactly what passes each of its
modules passes the real ones. Costs are then taken from the shapes of the real config, on no memory but
that of the method's own weights, which are shown vectors as wide as the real model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.configs import Named, build
from foveate.core.composed import Chain
from foveate.core.compressor import Compressor, Context, Tower
from foveate.core.tokens import VisualTokens
from foveate.hosts import cost, traits
from foveate.hosts.attach import compress
from foveate.hosts.twins import twin

PARTS = ("vision", "connector", "scorer", "language", "total")


def prefill(model: nn.Module, inputs: Mapping[str, Any]) -> Callable[[], Any]:
    """The call that reads one prompt as `generate` does: with a cache, logits of the last position."""
    return lambda: model(**inputs, use_cache=True, logits_to_keep=1)


def text_columns(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Columns of each prompt that are not visual."""
    visual = inputs["input_ids"] == traits.placeholder_id(traits.base_of(model))
    return int((~visual[0]).sum())


def counts(
    model: nn.Module, inputs: Mapping[str, Tensor], method: Compressor | None = None
) -> dict[str, Any]:
    """The counts of a model that can be run, bare or with a method; the model stays bare."""
    call, own, parts = prefill(model, inputs), None, []
    text = text_columns(model, inputs)
    visual = inputs["input_ids"].shape[1] - text
    if method is not None:
        model = compress(twin(model), method)
        call, parts = prefill(model, inputs), method.at(1.0).parts()
        own = cost.own_macs(model, call)
    load = cost.watch(model, text, call)
    return _told(load, cost.cost(model, load, parts, own), visual)


class Paper:
    """A model by name that stands on paper only: its skeleton, and a narrow twin to send prompts through."""

    def __init__(self, named: Named, dtype: torch.dtype | None = None, seed: int = 0):
        config = named.config()
        self.whole = cost.skeleton(config, dtype or config.dtype)
        self.narrow = build(narrowed(named.config()), seed=seed)
        self.prompts = [named.inputs(1, seed + i) for i in range(2)]

    def counts(self, method: Compressor | None = None) -> dict[str, Any]:
        """As `counts` does. Raises ValueError where the method's counts depend on what it sees."""
        text = text_columns(self.narrow, self.prompts[0])
        visual = self.prompts[0]["input_ids"].shape[1] - text
        if method is None:
            load = cost.watch(self.narrow, text, prefill(self.narrow, self.prompts[0]))
            return _told(load, cost.cost(self.whole, load), visual)
        parts = [self._widened(part) for part in method.at(1.0).parts()]
        small = compress(twin(self.narrow), Chain(*parts))
        first, other = (prefill(small, prompt) for prompt in self.prompts)
        loads: list[cost.Load] = []
        own = cost.own_macs(small, lambda: loads.append(cost.watch(small, text, first)))
        load = loads[0]
        if (seen := cost.watch(small, text, other)) != load:
            raise ValueError(_differing(load.visual, seen.visual))
        return _told(load, cost.cost(self.whole, load, parts, own), visual)

    def _widened(self, part: Compressor) -> Compressor:
        narrow, whole = (traits.base_of(m).config for m in (self.narrow, self.whole))
        tower = whole.vision_config.hidden_size // narrow.vision_config.hidden_size
        width = narrow.get_text_config().hidden_size
        return Widened(part, tower, whole.get_text_config().hidden_size // width, width)


class Widened(Compressor):
    """A compressor in the narrow twin, at work on vectors as wide as the real model's.

    tower, language: how much wider the real model's are. width: of the twin's language model. Repeated
    vectors have the angles they had, so a part without weights decides as it would.
    """

    def __init__(self, part: Compressor, tower: int, language: int, width: int):
        super().__init__()
        self.part, self.tower, self.language, self.width = part, tower, language, width
        self.site, self.needs, self.seed = part.site, part.needs, part.seed
        self.vision_layers, self.vision_blocks = part.vision_layers, part.vision_blocks
        self.optional = part.optional

    def _get_name(self) -> str:
        """Its own name is nothing to anybody."""
        return self.part._get_name()

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """What the compressor gives, narrow again."""
        wide, narrow = {}, tokens.x.shape[-1]
        for name in ("text", "previous", "normed"):
            if (value := getattr(context, name)) is not None:
                wide[name] = value.repeat(1, 1, self.language)
        if (words := context.words) is not None:
            wide["words"] = {**words, "normed": words["normed"].repeat(1, 1, self.language)}
        if context.features is not None:
            wide["features"] = {i: x.repeat(1, 1, self.tower) for i, x in context.features.items()}
        times = self.language if self.site.tower == Tower.language else self.tower
        tokens = tokens.carry(tokens.x.repeat(1, 1, times))
        found = self.part(tokens, replace(context, **wide))
        width = self.width if self.site.tower == Tower.projector else narrow
        return found.carry(found.x[..., :width])

    def arguments(self) -> dict[str, Any]:
        """None: it is saved nowhere."""
        return {}


def _differing(first: tuple[int, ...], other: tuple[int, ...]) -> str:
    """Why one prompt's counts are not those of every prompt."""
    ends = sorted({first[-1], other[-1]})
    left = " or ".join(map(str, ends))
    return (
        f"how much is left depends on the picture ({left} visual columns, newlines included: a row of tiles "
        "loses its own with its last token), so it cannot be counted on paper; without --count-only it is "
        "counted as it runs"
    )


def narrowed(config: Any) -> Any:
    """The same depth, grids and ids with one attention head, and vectors no wider than that."""
    whole = config.to_dict()
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    one = {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": width}
    whole["text_config"] |= one | {"hidden_size": width, "head_dim": width}
    vision = whole["vision_config"]
    heads = "num_heads" if "num_heads" in vision else "num_attention_heads"
    narrow = vision["hidden_size"] // vision[heads]
    vision |= {heads: 1, "hidden_size": narrow, "intermediate_size": narrow}
    if "out_hidden_size" in vision:
        vision["out_hidden_size"] = width
    return type(config).from_dict(whole)


def _told(load: cost.Load, spent: cost.Cost, visual: int) -> dict[str, Any]:
    """JSON-ready. compression: visual columns of the prompt to each equivalent token."""
    macs = {name: getattr(spent, name) for name in PARTS}
    return {
        "tokens": load.visual[-1],
        "tokens_per_layer": list(load.visual),
        "equivalent_tokens": spent.equivalent_tokens,
        "compression": visual / spent.equivalent_tokens,
        "macs": macs,
        "flops": {name: 2 * value for name, value in macs.items()},
        "kv_bytes": spent.kv_bytes,
    }
