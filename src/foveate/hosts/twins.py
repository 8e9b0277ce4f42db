"""Second models on the very same weights: to compress beside the first, or to read smaller pictures."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from foveate.hosts import traits


def twin(model: nn.Module) -> nn.Module:
    """A second model on the very same weights, so that one can be compressed beside the other."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def shrunk(model: nn.Module, processor: Any, side: int) -> tuple[nn.Module, Any]:
    """A twin whose tower sees side × side patches, its table of positions interpolated; its processor.

    Raises NotImplementedError for towers without such a table of one size, and for pictures cut into tiles:
    of a smaller one there are fewer.
    """
    if hasattr(model.config, "image_grid_pinpoints"):
        raise NotImplementedError("a smaller picture has fewer tiles of the same size")
    (tower,) = traits.towers_of(traits.base_of(model))
    table = _table(tower)
    if table is None or not hasattr(processor.image_processor, "size"):
        raise NotImplementedError(
            f"{type(tower).__name__} has no table of positions that could be made smaller"
        )
    small = twin(model)
    (tower,) = traits.towers_of(traits.base_of(small))
    was, pixels = tower.config.image_size, side * tower.config.patch_size
    _shrink(_table(tower), pixels, side)
    tower.config.image_size = small.config.vision_config.image_size = pixels
    small.config.image_seq_length = side * side
    shown = copy.deepcopy(processor)
    for name in ("size", "crop_size"):
        given = getattr(shown.image_processor, name, None) or {}
        fit = {key: round(value * pixels / was) for key, value in dict(given).items() if value}
        setattr(shown.image_processor, name, fit or given)
    return small, shown


def _table(tower: nn.Module) -> nn.Module | None:
    """The embeddings of a tower that have a position for each patch of one size of picture."""
    found = [m for m in tower.modules() if hasattr(m, "interpolate_pos_encoding")]
    fits = len(found) == 1 and isinstance(
        getattr(found[0], "position_embedding", None), nn.Embedding
    )
    return found[0] if fits else None


@torch.no_grad()
def _shrink(embeddings: nn.Module, pixels: int, side: int) -> None:
    """Give embeddings the positions of a smaller picture, as the model itself interpolates them."""
    old = embeddings.position_embedding.weight
    others = len(old) - embeddings.num_patches  # the class token's
    places = side * side + others
    blank = old.new_zeros(1, places, old.shape[1])
    table = embeddings.interpolate_pos_encoding(blank, pixels, pixels)[0]
    embeddings.position_embedding = nn.Embedding(*table.shape).to(table)
    embeddings.position_embedding.weight.copy_(table)
    embeddings.position_ids = torch.arange(places, device=old.device)[None]
    embeddings.image_size, embeddings.num_patches = pixels, side * side
    embeddings.num_positions = places
