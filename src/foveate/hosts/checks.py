"""What `compress` refuses: compressors that cannot act on a model, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from foveate.core import authored
from foveate.core.compressor import Compressor, Tower
from foveate.core.sizes import size_of
from foveate.hosts import encode, traits, within
from foveate.hosts.glance import asked_of
from foveate.hosts.positions import layer_type
from foveate.hosts.prompted import INSIDE, SHOWN_BEFORE

SIZED = ("width", "feature_width", "tower_width", "tower_layers", "feature_layer")


def check(base: nn.Module, method: Compressor) -> dict[nn.Module, dict[str, bool]]:
    """Raises what `compress` does if a compressor cannot act on a model.

    Returns the attention modules that must be tapped, and what each shows, as `glance.tap` takes it.
    """
    refuse_shards(base)
    found: dict[nn.Module, dict[str, bool]] = {}
    for part in method.every():
        authored.check(part)
        try:
            _check_site(base, part)
            _check_sizes(base, part)
            for attention, shows in _tapped(base, part):
                found.setdefault(attention, {}).update(shows)
        except (NotImplementedError, ValueError, TypeError) as error:
            name, early = part._get_name(), encode.before_projector([part])
            hint = f": {part.behind}" if early and part.behind else ""
            raise type(error)(f"{name} at {part.site}: {error}{hint}") from error
    _refuse_thinned(method.every())
    return found


def _refuse_thinned(parts: list[Compressor]) -> None:
    """Raise NotImplementedError for compressors that look at a tower in which others act."""
    reading = next((part for part in parts if encode.of_tower([part])), None)
    if within.of(parts) and reading is not None:
        raise NotImplementedError(
            f"{reading._get_name()} reads {sorted(encode.of_tower([reading]))[0]} of the vision tower, where "
            f"{within.of(parts)[0]._get_name()} acts: behind it, take methods that go by the tokens alone, "
            "such as DivPrune, or by the language model, such as FastV"
        )


def refuse_shards(base: nn.Module) -> None:
    """Raise RuntimeError where weights are sharded already."""
    sharded = [n for n, p in base.named_parameters() if hasattr(p, "device_mesh")]
    if sharded:
        raise RuntimeError(
            f"{sharded[0]} is sharded already: compress or restore first, then shard"
        )


def refuse_reselected(base: nn.Module, attached: dict[str, Any], parts: list[Compressor]) -> None:
    """Raise ValueError where these parts are given other features of the tower than when attached."""
    if not (encode.of_tower(parts) or encode.before_projector(parts)):
        return
    for name, now in traits.selection(base).items():
        if now != attached[name]:
            raise ValueError(
                f"{name} is {now!r} now, and was {attached[name]!r} when the method was attached: "
                "compress again"
            )


def _check_site(base: nn.Module, part: Compressor) -> None:
    decoder, (tower, layer) = traits.decoder_of(base), part.site
    layers = len(decoder.layers)
    if tower < Tower.language:
        traits.projector_of(base)
    if tower == Tower.vision:
        within.check(base, part)
    if tower != Tower.language:
        return
    if layer and layer >= layers:
        raise ValueError(f"the model has decoder layers 0 to {layers - 1}")
    if layer > 0 and (deep := traits.deepened(base)) >= layers:
        raise NotImplementedError(
            f"DeepStack adds {deep} layers of features to {layers} decoder layers, behind the last one too, "
            "where a short sequence has no place for them: compress before the language model, at language 0"
        )
    if layer == 0 and part.needs & INSIDE:
        raise ValueError(f"it needs {sorted(part.needs & INSIDE)}: layer >= 1")
    kinds = {layer_type(decoder, i) for i in range(max(layer - 1, 0), layers)} if layer else set()
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise NotImplementedError(
            f"decoder layers of kind {sorted(others)} keep no columns that could be dropped: compress "
            "before the language model, at language 0"
        )


def _check_sizes(base: nn.Module, part: Compressor) -> None:
    """Of its arguments, those that `sized` would fill in; what else a compressor knows is its own."""
    given = {n: v for n, v in part.arguments().items() if n in SIZED and v is not None}
    there = {name: size_of(base.config, name) for name in given}
    if wrong := [name for name in given if there[name] not in (None, given[name])]:
        made, has = (", ".join(f"{n}={sizes[n]}" for n in wrong) for sizes in (given, there))
        raise ValueError(
            f"made for {made}, the model has {has}: for_model(model), or foveate.sized(factory, model), "
            "takes the model's"
        )


def _tapped(base: nn.Module, part: Compressor) -> Iterator[tuple[nn.Module, dict[str, bool]]]:
    if asked := encode.of_tower([part]):
        traits.refuse_unordered(base)
        for tower in traits.towers_of(base):
            _check_depth(part, len(traits.tower_blocks(base, tower)))
            classless = not traits.has_class_token(base, tower)
            for name in sorted(asked):
                field, index = asked_of(name)
                if field != "features":
                    attention = traits.attention_of(traits.block_of(base, index, tower))
                    yield attention, {name: classless or field == "received"}
    decoder, (place, layer) = traits.decoder_of(base), part.site
    if place == Tower.vision:
        if (name := within.keys_before(part)) is not None:
            for tower in traits.towers_of(base):
                yield traits.attention_of(traits.block_of(base, layer - 1, tower)), {name: False}
        return
    if part.needs & SHOWN_BEFORE:
        yield traits.attention_of(decoder.layers[layer - 1]), {}
    if "own_attention" in part.needs:
        traits.norm_of(decoder.layers[layer])
        yield traits.attention_of(decoder.layers[layer]), {}
    if part.needs & {"normed", "words"}:
        traits.last_norm(decoder)


def _check_depth(part: Compressor, last: int) -> None:
    """Raise ValueError for hidden states and blocks that a tower of so many blocks does not have."""
    if far := [i for i in part.vision_layers if not 0 <= i <= last]:
        raise ValueError(f"vision_layers has {far[0]}: the tower has hidden states 0 to {last}")
    if far := [i for i in part.vision_blocks if not -last <= i < last]:
        raise ValueError(
            f"vision_blocks has {far[0]}: the tower has blocks 0 to {last - 1}; for_model(model), or "
            "foveate.sized(factory, model), takes the model's depth"
        )
