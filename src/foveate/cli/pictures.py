"""Pictures from people and for them: every fault of a file is one clear line, before any work."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from foveate.chat import pictures
from foveate.cli.wrong import Failed, Wrong
from foveate.keeping.provenance import write

if TYPE_CHECKING:
    from foveate.hosts.trace import Step

KINDS = (".png", ".svg", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf")


def read(path: Path) -> Image.Image:
    """The picture in a file, as `foveate.chat.pictures` has it. Raises Wrong if it cannot be used."""
    try:
        return pictures.read(path)
    except pictures.PictureError as error:
        raise Wrong(str(error)) from error


def writable(path: Path, kinds: Collection[str] = KINDS, option: str = "--picture") -> Path:
    """The path, if a picture can be written there. Raises Wrong before work is spent on one that cannot.

    kinds: the endings that there are; option: what the path was given as.
    """
    kinds = [kind for kind in kinds if _known(kind)]
    if path.suffix.lower() not in kinds:
        wanted = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise Wrong(f"{option} {path}: want a name that ends in {wanted}")
    try:
        if not path.parent.is_dir():
            raise Wrong(f"{option} {path}: there is no directory {path.parent}")
        if path.exists() and not path.is_file():
            raise Wrong(f"{option} {path}: that is no file, and no picture can take its place")
        if path.exists() and not os.access(path, os.W_OK):
            raise Wrong(f"{option} {path}: that file may not be written")
        part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        part.touch()
        part.unlink()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise Wrong(f"{option} {path}: no picture can be written there ({why})") from error
    return path


def beside(path: Path, image: Path) -> Path:
    """The path, if a picture can be written there and the one that was asked about stays. Raises Wrong."""
    if writable(path).exists() and path.samefile(image):
        raise Wrong(f"--picture {path}: that is the image itself, and would be lost: name another")
    return path


def save(image: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all.

    Raises Failed where its format does not hold it, OSError that names it where the disk is full.
    """
    drawn = io.BytesIO()
    try:
        if path.suffix.lower() == ".svg":
            drawn.write(_svg(image))
        else:
            image.save(drawn, Image.registered_extensions()[path.suffix.lower()])
    except (OSError, ValueError) as error:
        raise Failed(f"{path} cannot be written: {error}") from error
    write(path, drawn.getvalue())


def _svg(image: Image.Image) -> bytes:
    """The pixels in a vector file, for texts that take no other."""
    image.save(pixels := io.BytesIO(), "PNG")
    width, height = image.size
    held = base64.b64encode(pixels.getvalue()).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><image width="{width}" height="{height}" '
        f'href="data:image/png;base64,{held}"/></svg>'
    ).encode()


def _known(kind: str) -> bool:
    """Whether this Pillow writes files of this ending; what it knows nothing of, others write."""
    Image.init()
    return Image.EXTENSION.get(kind) in {None, *Image.SAVE}


def canvas(processor: Any, image: Image.Image, question: str, step: Step) -> Any:
    """What to draw the steps of one question on: the image, or a list of its one list of views."""
    from foveate import evaluate
    from foveate.hosts.protocol import padded

    views = 1 if step.grid is None else int(step.grid[0, :, 0].max()) + 1
    if views == 1:
        return padded(processor, image)
    inputs, _ = evaluate.encode(processor, [([image], question)])
    return [of_views(image, views, inputs["pixel_values"])]


def of_views(image: Image.Image, views: int, pixels: Any) -> Image.Image | list[Image.Image]:
    """What to draw one image's steps on: the picture, or one picture for each of its views.

    pixels (…, 3, H, W): what the processor made of this image alone. Where it cut the image into tiles,
    those are the pictures; where the tiles are joined again, every view shows the whole image.
    """
    if views == 1:
        return image
    tiles = pixels.reshape(-1, *pixels.shape[-3:]) if pixels.dim() > 3 else pixels[None]
    return [_seen(tile) for tile in tiles] if len(tiles) == views else [image] * views


def _seen(tile: Any) -> Image.Image:
    """A tile (3, H, W) as the model saw it, its normalisation undone as far as one can see."""
    low, high = tile.min(), tile.max()
    shown = (tile - low) / (high - low).clamp(min=1e-6) * 255
    return Image.fromarray(shown.permute(1, 2, 0).byte().cpu().numpy())
