"""Pictures from disk as a processor wants them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

SHORTEST = 4  # pixels of the shorter side
LONGEST = 100  # times the shorter side
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def picture(source: Path | Image.Image) -> Image.Image:
    """The picture in RGB, turned as its EXIF data say. Raises OSError where there is none to read."""
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source).convert("RGB")
    with Image.open(source) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def trouble(source: Path | Image.Image) -> tuple[str, str] | None:
    """What kind of trouble a picture will make, and which; None if it can be trained on.

    The file is decoded to its end; of a JPEG only the coarsest pixels are computed from it.
    """
    if isinstance(source, Image.Image):
        return absurd(source)
    try:
        with Image.open(source) as image:
            if found := absurd(image, f"{source}: "):
                return found
            image.draft(None, (1, 1))
            image.load()
    except FileNotFoundError:
        return "missing image", f"no file {source}"
    except TOO_LARGE as error:
        return "size of an image", f"{source}: {error}"
    except Exception as error:  # broken files make Pillow's decoders raise nearly anything
        return "broken image", f"{source}: {type(error).__name__}: {error}"
    return None


def absurd(image: Image.Image, name: str = "an image: ") -> tuple[str, str] | None:
    """Sizes that no one means: a line, a dot, more pixels than Pillow opens without a warning."""
    short, long = sorted(image.size)
    size = f"{name}{image.width} × {image.height} pixels"
    if short < SHORTEST:
        return "size of an image", f"{size}; want at least {SHORTEST} on each side"
    if long > LONGEST * short:
        return "size of an image", f"{size}; want at most {LONGEST} times longer than wide"
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and short * long > most:
        return "size of an image", f"{size}; want at most {most}"
    return None
