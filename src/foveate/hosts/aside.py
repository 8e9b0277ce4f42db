"""Features kept aside: what the tower made of images once, for every question that looks at them again.

Letters: B prompts, S columns, U units of a modality, as encode.py has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from foveate.hosts import encode, traits
from foveate.hosts.attachment import attachment_of
from foveate.hosts.calls import PIXELS

SHOWN = [name for names in PIXELS.values() for name in names]
HELD = ("units", "grids", "newlines", "fields", "deep")  # of an Encoded, what is held unit by unit


@dataclass(frozen=True, eq=False)
class Aside:
    """What a tower made of the images and videos of a batch, before anything of it was dropped.

    It serves every later call about the same images, with any question and any budget of the method it was
    made for: nothing that a compressor drops is lost.
    """

    outputs: Mapping[str, Any]
    pixels: Mapping[str, str] = field(
        default_factory=dict
    )  # digests of what the tower saw, by name

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        told = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in self._tensors()}
        return sum(one.nbytes() for one in told.values())

    def to(self, device: Any) -> Aside:
        """The same on another device."""
        return self._each(lambda name, held: _moved(held, device))

    def beside(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A call about the images kept here: these inputs, without their pixels.

        The images must be those kept, all of them, in order: raises ValueError for other pixels, and the call
        does where tokens do not fit the placeholders of input_ids.
        """
        rest = {name: value for name, value in inputs.items() if name not in SHOWN}
        if self.pixels and (other := _digests(inputs).items() - self.pixels.items()):
            raise ValueError(
                f"{min(other)[0]} are of other images than those that were kept aside: keep these aside too"
            )
        # Copies: generate writes into what it is handed.
        return {**rest, "mm_encoder_outputs": dict(self.to(inputs["input_ids"].device).outputs)}

    def of_rows(self, base: nn.Module, ids: Tensor, rows: Sequence[int]) -> Aside:
        """What of it stands in these rows of the prompts. ids (B, S)."""
        found = {}
        for modality, output in self.outputs.items():
            placed = (ids == traits.placeholder_id(base, modality)).sum(1).cumsum(0)
            ends = torch.tensor([len(unit) for unit in output[encode.KEY].units]).cumsum(0)
            owner = torch.bucketize(ends, placed.cpu()).tolist()
            mine = [unit for row in rows for unit, own in enumerate(owner) if own == row]
            if mine:
                found[modality] = _remade(output, lambda name, held, m=mine: _picked(name, held, m))
        return Aside(found)

    def _each(self, change: Any) -> Aside:
        made = {name: _remade(output, change) for name, output in self.outputs.items()}
        return Aside(made, self.pixels)

    def _tensors(self) -> list[Tensor]:
        held = [getattr(o[encode.KEY], name) for o in self.outputs.values() for name in HELD]
        return [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]


def keep_aside(model: nn.Module, inputs: Mapping[str, Any], device: Any = None) -> Aside:
    """Run the tower on the images of a batch, and keep what it makes of them: no later call needs it again.

        aside = foveate.keep_aside(model, inputs, device="cpu")
        first = model.generate(**aside.beside(inputs))
        later = processor(images=pictures, text=conversation, return_tensors="pt")
        second = model.generate(**aside.beside(later))

    A processor counts placeholders by the pictures, so it wants them each time; the tower does not run again.

    inputs: as the model's processor makes them; device: where it is kept, None where it was made. It holds
    all tokens, and what the attached method asks of the tower: another budget of it (`but(keep=…)`) reads the
    same. `aside.bytes` says how much.

    Raises ValueError if the model is not compressed; a bare one drops nothing. A call with a method that asks
    the tower for something else raises ValueError too.
    """
    attachment = attachment_of(model)
    base = traits.base_of(model)
    with torch.no_grad():
        outputs, _, _ = encode.features(base, dict(inputs), attachment)
    aside = Aside(outputs, _digests(inputs))
    return aside.to(device if device is not None else base.device)


def _digests(inputs: Mapping[str, Any]) -> dict[str, str]:
    """What tells the pixels of a call from others."""
    there = {name: inputs[name] for name in SHOWN if inputs.get(name) is not None}
    return {
        name: hashlib.sha256(pixels.detach().float().cpu().numpy().tobytes()).hexdigest()
        for name, pixels in there.items()
    }


def _remade(output: Any, change: Any) -> Any:
    """A feature function's output with another of everything held: change(name, held) of each."""
    old = output[encode.KEY]
    new = replace(old, **{name: change(name, getattr(old, name)) for name in HELD})
    stacked = isinstance(output.pooler_output, Tensor)
    pooled = torch.stack(new.units) if stacked and new.units else new.units
    deep = {"deepstack_features": [list(layer) for layer in new.deep]} if new.deep else {}
    found = type(output)(pooler_output=pooled, **deep)
    found[encode.KEY] = new
    return found


def _moved(held: Any, device: Any) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, held)


def _picked(name: str, held: Any, units: Sequence[int]) -> Any:
    """These units of what is held: of all, of each field by name, or of each layer."""
    if name == "fields":
        return {field: [values[unit] for unit in units] for field, values in held.items()}
    if name == "deep":
        return [[layer[unit] for unit in units] for layer in held]
    return None if held is None else [held[unit] for unit in units]
