"""Pictures as every part of foveate sees them: training, its check, ask, draw, eval, compare and bench.

One rule for files and for pictures in memory:

- The first frame counts; of a picture in memory, the one it stands at.
- It is upright, as its EXIF data say; data that cannot be read say nothing.
- What is transparent becomes white: alpha, palettes with it, and colours that stand for none. What lies
  below is never seen.
- 8 bits to a channel. Of 16, the upper 8 count, which makes 65535 255; Pillow reads colour so. Pixels of
  32 bits, whole numbers or floating point, are refused: their range is anybody's guess. Other colours
  (CMYK, YCbCr, LAB, HSV) become RGB as Pillow converts them; colour profiles are not read.
- At least SHORTEST pixels on each side, at most LONGEST times as long as wide, and at most as many as
  PIL.Image.MAX_IMAGE_PIXELS.
- PostScript is refused: it is a program, which Pillow would have run by another one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

SHORTEST = 4  # pixels of a side; with fewer, processors take rows for colours
LONGEST = 100  # processors scale the shorter side up, so a hair's breadth becomes a huge picture
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
TOO_MANY = (Image.DecompressionBombError, Image.DecompressionBombWarning)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How a file's numbers become those of its pixels; Pillow leaves the colour that stands for none as it was.
KEYS = {
    "L;2": lambda key: 85 * key,
    "L;4": lambda key: 17 * key,
    "RGB;16B": lambda key: tuple(part >> 8 for part in key),
}


class PictureError(ValueError):
    """A picture that cannot be used: what is wrong, with its name, and what kind of fault that is."""

    def __init__(self, what: str, kind: str = "broken image"):
        super().__init__(what, kind)  # so that it comes whole out of a data loader's worker
        self.what, self.kind = what, kind

    def __str__(self) -> str:
        return self.what


def read(source: Path | str | Image.Image, coarse: bool = False) -> Image.Image:
    """The picture upright and in RGB, on white. Raises PictureError where there is none of a sane size.

    coarse: a JPEG is decoded to its end, but only its coarsest pixels are computed.
    """
    if not isinstance(source, os.PathLike | str | Image.Image):
        raise PictureError(f"want a path or a PIL image, got {type(source).__name__}")
    name = "an image" if isinstance(source, Image.Image) else str(source)
    try:
        if isinstance(source, Image.Image):
            return _read(source, name, coarse=False)
        _want_file(Path(source), name)
        with Image.open(source) as image:
            return _read(image, name, coarse)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        wanted = "want PNG, JPEG, WebP, GIF, TIFF, BMP, …"
        raise PictureError(f"{name} is no image that can be read: {wanted}") from error
    except TOO_MANY as error:
        raise _sized(f"{name} has too many pixels: {_most()}") from error
    except Exception as error:  # broken files make Pillow's decoders raise nearly anything
        if why := getattr(error, "strerror", None):
            raise PictureError(f"{name} cannot be read: {why}") from error
        why = " ".join(f"{error}".split()) or type(error).__name__
        raise PictureError(f"{name} is broken and cannot be read: {why}") from error


def is_video(source: Path | str | Image.Image) -> bool:
    """Whether this is a path of a video, by how it ends."""
    return isinstance(source, os.PathLike | str) and Path(source).suffix.lower() in VIDEOS


def trouble(source: Path | str | Image.Image) -> tuple[str, str] | None:
    """Of what kind the fault is that `read` would raise, and what it is; None if there is none.

    A video is not decoded: what reads it is the model's own processor.
    """
    try:
        if is_video(source):
            _want_file(Path(source), str(source), "video")
        else:
            read(source, coarse=True)
    except PictureError as error:
        return error.kind, error.what
    return None


def flat(image: Image.Image, name: str = "an image") -> Image.Image:
    """The picture in RGB, on white, as it stands. Raises PictureError for pixels of 32 bits."""
    raw, key = _raw_mode(image), image.info.get("transparency")
    image.load()
    if image.mode in DEEP or (image.mode == "I" and raw in DEEP):
        return _upper(image, key)
    if image.mode in ("I", "F"):
        what = f"{name} has pixels of mode {image.mode}, 32 bits"
        raise PictureError(
            f"{what}: want 8 or 16 bits to a channel; convert it", "mode of an image"
        )
    if key is not None and raw in KEYS:
        image = image.copy()
        image.info["transparency"] = KEYS[raw](key)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _read(image: Image.Image, name: str, coarse: bool) -> Image.Image:
    """An opened picture as it is used; none of its data come along, so that nothing turns it again."""
    _want_sane(image, name)
    if coarse:
        image.draft(None, (1, 1))
    found = flat(image, name)
    turn = _turn(image)
    found = found if turn is None else found.transpose(turn)
    found.info = {}
    return found


def _want_file(path: Path, name: str, what: str = "image") -> None:
    if not path.exists():
        raise PictureError(f"no such {what}: {name}", f"missing {what}")
    if not path.is_file():  # a pipe would be waited for
        raise PictureError(f"{name} is no file, as an image or a video is")
    if path.stat().st_size == 0:
        raise PictureError(f"{name} is empty (0 bytes)")


def _want_sane(image: Image.Image, name: str) -> None:
    """Raise PictureError, before decoding, for sizes that no one means, and for programs."""
    if image.format == "EPS":
        raise PictureError(
            f"{name} is PostScript, a program: want PNG, JPEG, WebP, GIF, TIFF, BMP, …"
        )
    (short, long), most = sorted(image.size), Image.MAX_IMAGE_PIXELS
    size = f"{name} is {image.width} x {image.height} pixels"
    if short < SHORTEST:
        raise _sized(f"{size}: want at least {SHORTEST} on each side")
    if long > LONGEST * short:
        raise _sized(f"{size}: want at most {LONGEST} times as long as wide")
    if most is not None and short * long > most:
        raise _sized(f"{size}: {_most()}")


def _sized(what: str) -> PictureError:
    return PictureError(what, "size of an image")


def _most() -> str:
    millions = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return f"want at most {millions:.3g} million in all; scale it down first"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to set the picture upright; None if it is, or if nothing that can be read says."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a broken note beside sound pixels: Pillow raises nearly anything
        return None


def _raw_mode(image: Image.Image) -> str:
    """How the pixels stand in the file; empty once it was decoded, and in memory."""
    tiles = getattr(image, "tile", None)
    given = tiles[0][3] if tiles else ""
    given = given[0] if isinstance(given, tuple) and given else given
    return given if isinstance(given, str) else ""


def _upper(image: Image.Image, key: int | None) -> Image.Image:
    """16 bits of grey, of which the upper 8 count; key is the grey that stands for none."""
    pixels = np.asarray(image)
    grey = (pixels >> 8).astype(np.uint8)
    if key is not None:
        grey[pixels == key] = 255
    return Image.fromarray(grey).convert("RGB")
