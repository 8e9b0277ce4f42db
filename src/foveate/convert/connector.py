"""Which compressor a connector's weights are: their shapes say it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate.convert.files import Weights
from foveate.convert.weights import fill, keyed
from foveate.core.compressor import Compressor
from foveate.core.sizes import sized
from foveate.methods import llava_stf

SPATIAL, BLOCKS = "mm_projector.", "mm_projector_crosslayer."
NAME = re.compile(r"(?:^|\.)(mm_projector(?:_crosslayer)?\..+)$")  # whatever wraps the model


def parted(weights: Weights, source: Path) -> tuple[Weights, Weights]:
    """The connector's of these weights, without what its model puts before their names, and the rest.

    Raises ValueError where two of them are one weight of the connector.
    """
    matches = {name: match for name in weights if (match := NAME.search(name))}
    own = keyed(matches, lambda name: matches[name][1], source)
    rest = {name: value for name, value in weights.items() if name not in matches}
    return {ours: weights[name] for ours, name in own.items()}, rest


def attachable(
    weights: Weights, model: nn.Module, vision_layers: Sequence[int] | None, source: Path
) -> Compressor:
    """The compressor with these weights, for a model of this kind; see `convert_llava_stf`.

    Where it fuses no windows, the model's projector gets what stands in their place. Raises ValueError
    for a projector of single features alone, and for weights that do not fit.
    """
    wide, tower = sized(_widths, model)
    window, into = _window(weights, wide, source), weights.get(f"{BLOCKS}0.weight")
    if into is None and window == 1:
        raise ValueError(
            f"{source} is a plain LLaVA: its projector reads single features of {wide} channels and there "
            f"is no {BLOCKS}0.weight, so nothing of LLaVA-STF is in it"
        )
    if into is None and vision_layers is not None:
        raise ValueError(
            f"vision_layers={[*vision_layers]}: {source} has no {BLOCKS}0.weight to read them"
        )
    hidden, given = weights[f"{SPATIAL}0.weight"].shape[0], {}
    if into is not None:
        given = _fused(into, wide, tower, vision_layers, source)
    if into is None:
        given, names = {"only": "stf", "window": window, "hidden": hidden}, {SPATIAL: "mlp."}
    elif window == 1:
        given, names = given | {"only": "mbtf"}, {BLOCKS: "mlp."}
        _usual(model, weights, source)
        weights = {name: value for name, value in weights.items() if name.startswith(BLOCKS)}
    else:
        given |= {"window": window, "hidden": hidden}
        names = {BLOCKS: "multi_block.mlp.", SPATIAL: "spatial.mlp."}
    with torch.device("meta"):
        method = sized(llava_stf, model, **given)
    fill(method, weights, names, source)
    return method


def _window(weights: Weights, wide: int, source: Path) -> int:
    """The side of the windows that are fused; 1 for none."""
    first = weights.get(f"{SPATIAL}0.weight")
    if first is None or first.dim() != 2:
        found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in weights.items())
        raise ValueError(
            f"{source}: want a matrix {SPATIAL}0.weight; of a connector it has {found or 'nothing'}"
        )
    window = math.isqrt(first.shape[1] // wide)
    if window < 1 or window**2 * wide != first.shape[1]:
        raise ValueError(
            f"{source}: {SPATIAL}0.weight {tuple(first.shape)} reads {first.shape[1]} channels: want a "
            f"square number of features of {wide} channels each"
        )
    return window


def _fused(
    into: Tensor, wide: int, tower: int, vision_layers: Sequence[int] | None, source: Path
) -> dict[str, Any]:
    """The hidden states that are fused with the selected one, and the width between, as arguments."""
    rest = into.shape[-1] - wide
    if into.dim() != 2 or rest < 0 or rest % tower:
        raise ValueError(
            f"{source}: {BLOCKS}0.weight {tuple(into.shape)}: want a matrix that reads a whole number of "
            f"hidden states of {tower} channels each"
        )
    given, count = {"block_hidden": into.shape[0]}, rest // tower
    if vision_layers is None:
        return given | {"blocks": 1 + count}
    if len(vision_layers) != count:
        raise ValueError(
            f"vision_layers={[*vision_layers]}: {source} fuses {count} hidden states with the selected one"
        )
    return given | {"vision_layers": [*vision_layers]}


def _usual(model: nn.Module, weights: Weights, source: Path) -> None:
    """The projector of single features, into the model's own."""
    projector = model.model.multi_modal_projector
    dtype = projector.linear_1.weight.dtype
    mine = {n: w.to(dtype) for n, w in weights.items() if n.startswith(SPATIAL)}
    names = {f"{SPATIAL}0.": "linear_1.", f"{SPATIAL}2.": "linear_2."}
    fill(projector.to("meta"), mine, names, source)


def _widths(feature_width: int, tower_width: int) -> tuple[int, int]:
    return feature_width, tower_width
