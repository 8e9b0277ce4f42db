"""Image files from people: anything may be in them, and every fault is one clear line."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps, UnidentifiedImageError

from foveate.cli.wrong import Wrong
from foveate.provenance import write

if TYPE_CHECKING:
    from foveate.hosts.trace import Step

MAX_SIDE = 16_384
MAX_PIXELS = 80_000_000
MAX_ASPECT = 50  # processors scale the shorter side up, so a hair's breadth becomes a huge image


def read(path: Path) -> Image.Image:
    """The picture in a file, upright and in RGB. Raises Wrong, before decoding, if it is no sane image."""
    if not path.exists():
        raise Wrong(f"no such image: {path}")
    if not path.is_file():
        raise Wrong(f"{path} is no file: want an image file")
    if path.stat().st_size == 0:
        raise Wrong(f"{path} is empty (0 bytes): want an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check(path, *image.size)
                if image.mode[0] in "IF":  # converting would clip them to white
                    raise Wrong(f"{path} has {image.mode} pixels: want 8 bits to a channel")
                upright = ImageOps.exif_transpose(image)
                return _flat(upright)
    except UnidentifiedImageError as error:
        raise Wrong(
            f"{path} is no image that can be read: want PNG, JPEG, WebP, GIF, BMP, …"
        ) from error
    except Image.DecompressionBombError as error:
        raise Wrong(f"{path} has too many pixels: {_limits()}") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise Wrong(f"{path} is broken and cannot be read: {error}") from error


def writable(path: Path, kinds: Collection[str] | None = None) -> Path:
    """The path if a picture can be written there. Raises Wrong before work is spent on one that cannot.

    kinds: the endings there are, of a figure; None for those of pictures.
    """
    Image.init()
    if path.suffix.lower() not in (Image.EXTENSION if kinds is None else kinds):
        ends = (".png", ".jpg", ".webp") if kinds is None else tuple(kinds)
        wanted = f"{', '.join(ends[:-1])} or {ends[-1]}"
        raise Wrong(f"--picture {path}: want a name that ends in {wanted}")
    if not path.parent.is_dir():
        raise Wrong(f"--picture {path}: there is no directory {path.parent}")
    return path


def save(image: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all. Raises OSError that names it where the disk is full."""
    drawn = io.BytesIO()
    image.save(drawn, Image.registered_extensions()[path.suffix.lower()])
    write(path, drawn.getvalue())


def canvas(processor: Any, image: Image.Image, question: str, step: Step) -> Any:
    """What to draw the steps of one question on: the image, or a list of its one list of views."""
    from foveate import evaluate

    views = 1 if step.grid is None else int(step.grid[0, :, 0].max()) + 1
    if views == 1:
        return image
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


def _check(path: Path, width: int, height: int) -> None:
    fits = max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS
    if not fits:
        raise Wrong(f"{path} is {width} x {height} pixels: {_limits()}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Wrong(
            f"{path} is {width} x {height} pixels: want at most {MAX_ASPECT} times as long as wide"
        )


def _limits() -> str:
    return (
        f"want at most {MAX_SIDE:,} on a side and {MAX_PIXELS // 1_000_000} million in all; "
        "scale it down first"
    )


def _flat(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
