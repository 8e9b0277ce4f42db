"""What random draws follow, and the number of each image by which those in training tell images apart."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.hosts import traits
from foveate.hosts.rows import Rows

PIXELS = 4096  # about as many of a view are read: enough to tell images apart


@dataclass(frozen=True)
class Draws:
    """What random draws follow, in one forward pass.

    step     of training; None outside, or where nobody said
    samples  a number of each image's own, in training
    """

    training: bool
    step: int | None
    samples: Sequence[int] = ()

    def generators(self, seed: int, images: int) -> tuple[torch.Generator, ...]:
        """One generator per image: seeded alike at inference, by step and sample in training.

        Raises RuntimeError in training if nobody said which step it is.
        """
        if self.training and self.step is None:
            raise RuntimeError(
                "training with random draws: foveate.set_progress(model, step, max_steps) must say the step, "
                "as foveate.ProgressCallback() does in a Trainer"
            )
        seeds = [seed] * images
        if self.training:
            seeds = [_mix(seed, self.step, sample) for sample in self.samples]
        return tuple(torch.Generator().manual_seed(one) for one in seeds)


def of_rows(
    base: nn.Module, kwargs: Mapping[str, Any], seen: Rows, pixels: Mapping[str, Tensor]
) -> list[int]:
    """A number of each image's own, the same in any micro-batch, on any rank and in a recomputation.

    It comes from the image's own pixels, which no rounding reaches, without what they are padded with
    beside larger images. Only images that came encoded, or whose pixels nothing deals out, are told by
    their first feature, which is the same as far as the tower computes the same.
    """
    numbers, ends = [], {"image": seen.images, "video": len(seen.prompt)}
    for modality in traits.MODALITIES:
        mine = range(len(numbers), ends[modality])
        dealt = _dealt(base, kwargs, seen, modality, mine, pixels.get(modality)) if mine else []
        numbers += [_number(one) for one in dealt or seen.tokens.x[list(mine), :1]]
    return numbers


def _mix(seed: int, step: int, sample: int) -> int:
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + sample + 1) % 2**63


def _number(own: Tensor) -> int:
    """Of pixels (views, colours, height, width), or patches (n, pixels); tiles may be padded with zeros."""
    step = max(1, own.shape[-3:].numel() // PIXELS)
    some = own.detach().flatten()[::step].float().cpu().numpy()
    return zlib.crc32(some.tobytes().rstrip(b"\0"))


def _dealt(
    base: nn.Module,
    kwargs: Mapping[str, Any],
    seen: Rows,
    modality: str,
    mine: range,
    pixels: Tensor | None,
) -> list[Tensor]:
    """The pixels of each row in `mine`, unpadded; none where they do not divide into these rows."""
    if pixels is None:
        return []
    sizes = kwargs.get("image_sizes") if modality == "image" and seen.newlines is None else None
    grid_thw = kwargs.get(f"{modality}_grid_thw")
    counts = [1] * len(mine)
    if grid_thw is not None:  # patches of all images, one behind the other
        counts = grid_thw.prod(-1).tolist()
    elif modality == "image" and traits.rows_are_runs(base):
        if pixels.dim() == 5:  # tiles by prompt, where tiles of zeros are padding
            pixels = pixels.flatten(0, 1)
            pixels = pixels[pixels.flatten(1).any(1)]
        if "grid" not in seen.known:
            return []
        counts = (seen.known["grid"][list(mine), :, 0].amax(1) + 1).tolist()
    if len(counts) != len(mine) or sum(counts) != len(pixels):
        return []
    parts = list(pixels.split(counts))
    if sizes is None or len(sizes) != len(parts):
        return parts
    # Where image sizes are no sizes of tiles, they say where the padding of a smaller image begins.
    sized = zip(parts, torch.as_tensor(sizes).tolist(), strict=True)
    return [part[..., : int(height), : int(width)] for part, (height, width) in sized]
