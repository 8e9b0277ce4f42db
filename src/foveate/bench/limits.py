"""How far from the ideal: the same model on prompts that never had more tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.bench.clock import Ratio, Timing, interleaved, ratio
from foveate.bench.count import prefill, text_columns
from foveate.core.compressor import Compressor
from foveate.hosts import traits
from foveate.hosts.attach import compress, is_compressed
from foveate.hosts.twins import twin

# What the host may cost at 25 % kept: a median for the first two, the lower 95 % bound for the idle ones.
BARS = {"before": 1.03, "inside": 1.05, "idle_before": 1.01, "idle_inside": 1.01}
# Shown by the cells of methods that do next to nothing themselves: (method, keep, idle).
JUDGED = {
    "before": ("stride", 0.25, False),
    "inside": ("fastv", 0.25, False),
    "idle_before": ("stride", 1.0, True),
    "idle_inside": ("fastv", 1.0, True),
}


def prefill_ratio(
    model: nn.Module,
    inputs: Mapping[str, Any],
    method: Compressor | None,
    pairs: int = 10,
    trained: nn.Module | None = None,
    how: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Ratio:
    """Prefill with a method against the uncompressed model, in the same run; the model stays bare.

    trained: the model that the method acts on, where it was trained with one of its own; how: what else
    `compress` is told; given: that model's inputs, where they are others. Without a method it is bare.
    """
    small = twin(bare(trained or model))
    small = small if method is None else compress(small, method, **(how or {}))
    calls = {
        "method": prefill(small, inputs if given is None else given),
        "bare": prefill(model, inputs),
    }
    timings = interleaved(calls, pairs)
    return ratio(timings["method"], timings["bare"])


def short_prefill(model: nn.Module, inputs: Mapping[str, Tensor], visual: int) -> Callable[[], Any]:
    """The prefill of prompts with `visual` visual columns each, where the uncompressed ones have more.

    Tower and connector run on whole images, as they do under compression; then the language model reads
    a physically short prompt. All prompts of the batch have the same number of visual columns.
    """
    short = shortened(model, inputs, visual)
    return lambda: model(**short(), use_cache=True, logits_to_keep=1)


def shortened(
    model: nn.Module, inputs: Mapping[str, Tensor], visual: int
) -> Callable[[], dict[str, Tensor]]:
    """What runs tower and connector and gives such short prompts, as vectors and their mask."""
    base = traits.base_of(model)
    ids = inputs["input_ids"]
    is_visual = ids == traits.placeholder_id(base)
    whole = int(is_visual[0].sum())
    stays = ~is_visual | (is_visual.cumsum(1) <= visual)
    short, at = ids[stays].reshape(len(ids), -1), is_visual[stays].reshape(len(ids), -1)
    words = short.masked_fill(at, traits.padding_id(base))
    names = inspect.signature(base.get_image_features).parameters
    seen = {k: v for k, v in inputs.items() if k in names}

    def call() -> dict[str, Tensor]:
        rows = base.get_image_features(**seen, return_dict=True).pooler_output
        rows = torch.cat(list(rows)).reshape(len(ids), whole, -1)[:, :visual]
        embeds = model.get_input_embeddings()(words)
        embeds = embeds.masked_scatter(at[..., None], rows.to(embeds.dtype))
        return {"inputs_embeds": embeds, "attention_mask": torch.ones_like(words)}

    return call


def missing(model: nn.Module, inputs: Mapping[str, Tensor], layers: Sequence[int]) -> list[int]:
    """The numbers of visual columns in layers that do not see all of them."""
    whole = inputs["input_ids"].shape[1] - text_columns(model, inputs)
    return [n for n in dict.fromkeys(layers) if n < whole]


def ideal(prefills: Mapping[int, Sequence[Timing]], layers: Sequence[int]) -> list[Timing]:
    """Round by round the time a model would take whose layers see so many visual columns and no more.

    prefills: the rounds of a prompt of each such number; layers: the number in each decoder layer.
    A share of the layers takes its share of that prompt's time; tower and head are alike in all.
    """
    walls, cpus = (
        weighted({n: [t[part] for t in rounds] for n, rounds in prefills.items()}, layers)
        for part in (0, 1)
    )
    return [*map(Timing, walls, cpus)]


def weighted(rounds: Mapping[int, Sequence[float]], layers: Sequence[int]) -> list[float]:
    """Round by round the mean over the layers, each with the value of a prompt of as many columns."""
    each = zip(*(rounds[n] for n in layers), strict=True)
    return [sum(values) / len(layers) for values in each]


def realised(to_bare: Mapping[str, float], flops: float) -> dict[str, float] | None:
    """The share of the arithmetic saved that became time saved, with its bounds; None where none is saved.

    to_bare: the prefill's time in a ratio to the bare model's, with bounds; flops: its arithmetic in one.
    """
    if flops >= 1:
        return None
    ends = {"median": "median", "low": "high", "high": "low"}  # less time is more saved
    return {name: (1 - to_bare[end]) / (1 - flops) for name, end in ends.items()}


def judged(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The ratios to the limit that say what the host costs, with their bars, at the first batch size."""
    found: dict[str, dict[str, Any]] = {}
    for name, wanted in JUDGED.items():
        for cell in cells:
            if (cell["method"], cell["keep"], cell["idle"]) == wanted and "to_limit" in cell:
                found.setdefault(name, {**cell["to_limit"], "bar": BARS[name]})
    return found


def bare(model: nn.Module) -> nn.Module:
    """The model itself. Raises ValueError if it is compressed."""
    if is_compressed(model):
        raise ValueError(
            "this model is compressed already: foveate.restore(model) before measuring"
        )
    return model
