"""One rule for pictures: training, its check, ask and evaluation see the same, or refuse the same file."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from processors import image, processor

from foveate import evaluate
from foveate.chat.pictures import PictureError, flat, read, trouble
from foveate.cli.pictures import read as asked
from foveate.cli.wrong import Wrong
from foveate.train.data import Collator, Record, Turn

TURNS = (Turn("user", "<image>?"), Turn("assistant", "!"))
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "LAB", "I", "F"]
FORMATS = ["PNG", "TIFF", "GIF", "JPEG", "WEBP", "BMP", "TGA", "JPEG2000"]


def drawn(mode: str) -> Image.Image:
    """Noise of a mode, half of it transparent where that can be; colours lie below."""
    made = image(3, 24, 16)
    made.putalpha(Image.linear_gradient("L").resize(made.size))
    if mode == "I;16":
        return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (16, 24), np.uint16))
    if mode == "PA":
        return made.convert("RGB").convert("P").convert("PA")
    opaque = made.convert("RGB") if mode in ("CMYK", "YCbCr", "LAB") else made
    return opaque.convert(mode)


def saved(folder: Path, mode: str, kind: str) -> Path | None:
    """A file of this mode and format; None where there is none."""
    path = folder / f"{mode}.{kind}".replace(";", "")
    try:
        drawn(mode).save(path, kind)
    except (OSError, ValueError, KeyError):
        return None
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each mode in each format that has it."""
    folder = tmp_path_factory.mktemp("pictures")
    made = [saved(folder, mode, kind) for mode in MODES for kind in FORMATS]
    return [path for path in made if path is not None]


def test_everybody_sees_the_same_pixels(files):
    """Or refuses the file, in the same words."""
    made, refused = processor("llava"), []
    learns = Collator(made)
    for path in files:
        record = Record("a", (path,), TURNS, "here")
        try:
            shown = asked(path)
        except Wrong as error:
            refused.append(path.name)
            assert trouble(path) == ("mode of an image", str(error))
            with pytest.raises(OSError, match="here: ") as caught:
                learns([record])
            assert str(caught.value) == f"here: {error}"
            continue
        assert trouble(path) is None and shown.mode == "RGB"
        trained = learns([record])["pixel_values"]
        with Image.open(path) as opened:
            for given in (shown, path, opened):
                seen = evaluate.encode(made, [([given], "?")])[0]["pixel_values"]
                assert torch.equal(trained, seen), (path.name, given)
        assert read(shown).tobytes() == shown.tobytes()
    assert len(files) > 50
    assert refused == ["I.TIFF", "F.TIFF"]


def test_what_is_transparent_is_white():
    """Red below nothing: none of it is seen; below half, half of it."""
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 128))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    found = read(clear)
    seen = [found.getpixel((x, 0)) for x in range(3)]
    assert seen == [(255, 127, 127), (255, 0, 0), (255, 255, 255)]
    assert flat(clear.convert("RGBa")).getpixel((5, 5)) == (255, 255, 255)
    grey = Image.new("LA", (8, 8), (0, 0))
    assert read(grey).getcolors() == [(64, (255, 255, 255))]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=1)
    assert read(Image.open(file)).getcolors() == [(64, (255, 255, 255))]


def png(depth: int, colour: int, row: bytes, key: bytes) -> Image.Image:
    """A PNG of one row, four times, with a colour that stands for none."""
    width = len(row) * 8 // depth // (3 if colour == 2 else 1)
    head = struct.pack(">IIBBBBB", width, 4, depth, colour, 0, 0, 0)
    lines = zlib.compress((b"\0" + row) * 4)
    chunks = [(b"IHDR", head), (b"tRNS", key), (b"IDAT", lines), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks
    ]
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))


@pytest.mark.parametrize(
    ("depth", "row", "key", "want"),
    [
        (1, b"\x0f", 1, [0, 0, 0, 0, 255, 255, 255, 255]),
        (1, b"\x0f", 0, [255] * 8),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x01\x23\x45", 4, [0, 17, 34, 51, 255, 85]),
        (8, bytes([0, 1, 2, 200, 7, 9]), 200, [0, 1, 2, 255, 7, 9]),
        (16, struct.pack(">5H", 0, 256, 300, 25_600, 65535), 300, [0, 1, 255, 100, 255]),
    ],
)
def test_a_grey_that_stands_for_none(depth, row, key, want):
    found = np.asarray(read(png(depth, 0, row, struct.pack(">H", key))))[0, :, 0].tolist()
    assert found == want


def test_a_colour_of_16_bits_that_stands_for_none():
    row = struct.pack(">12H", *(3 * [300]), *(3 * [9000]), *(3 * [0]), *(3 * [65535]))
    found = np.asarray(read(png(16, 2, row, struct.pack(">3H", 9000, 9000, 9000))))[0, :, 0]
    assert found.tolist() == [1, 255, 0, 255]


def test_of_16_bits_the_upper_8_count(tmp_path):
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values >> 8).astype(np.uint8)).save(tmp_path / "eight.png")
    assert read(tmp_path / "deep.png").tobytes() == read(tmp_path / "eight.png").tobytes()
    assert read(Image.fromarray(np.full((8, 8), 65535, np.uint16))).getpixel((0, 0)) == (255,) * 3
    big = Image.fromarray(values.astype(">u2"))
    assert read(big).tobytes() == read(tmp_path / "eight.png").tobytes()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_are_refused_by_name(mode):
    with pytest.raises(
        PictureError, match=f"an image has pixels of mode {mode}, 32 bits: want 8 or 16"
    ):
        read(Image.new(mode, (8, 8)))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_pictures_are_upright_once(tmp_path, kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a.{kind}"
    image(1, 60, 40).save(path, exif=exif)
    found = read(path)
    with Image.open(path) as opened:
        assert found.tobytes() == ImageOps.exif_transpose(opened).convert("RGB").tobytes()
        assert read(opened).tobytes() == found.tobytes()
    assert found.size == ((40, 60) if turn > 4 else (60, 40))
    assert read(found).tobytes() == read(read(found)).tobytes() == found.tobytes()


def test_notes_that_cannot_be_read_say_nothing(tmp_path):
    image(1, 60, 40).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\1\x12\0\3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read(tmp_path / "a.jpg").size == (60, 40)


@pytest.mark.parametrize("kind", ["gif", "png", "tif", "webp"])
def test_the_first_frame_counts(tmp_path, kind):
    frames = [Image.new("RGB", (20, 10), name) for name in ("red", "blue", "lime")]
    more = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **more)
    with Image.open(tmp_path / f"a.{kind}") as opened:
        assert opened.n_frames == 3
    assert read(tmp_path / f"a.{kind}").getcolors() == [(200, (255, 0, 0))]


NO_PICTURES = {
    "text.png": b"not a picture",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "page.pdf": b"%PDF-1.4\n%%EOF\n",
    "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n",
    "empty.png": b"",
    "zeros.jpg": bytes(500),
}


@pytest.mark.parametrize("given", [np.zeros((99, 99, 3)), None, b"a.png", [Path("a.png")]])
def test_what_is_neither_path_nor_picture_is_named_by_its_type(given):
    with pytest.raises(PictureError) as caught:
        read(given)
    assert str(caught.value) == f"want a path or a PIL image, got {type(given).__name__}"


@pytest.mark.parametrize(
    "name", [*NO_PICTURES, "gone.png", "folder.png", "pipe.png", "x" * 300, "a\0b"]
)
def test_what_is_no_picture_is_one_line(tmp_path, name):
    """The same for the check, which decodes coarsely, and the reader, with the file's name."""
    path = tmp_path / name
    if name in NO_PICTURES:
        path.write_bytes(NO_PICTURES[name])
    elif name == "folder.png":
        path.mkdir()
    elif name == "pipe.png":
        os.mkfifo(path)
    with pytest.raises(PictureError) as caught:
        read(path)
    assert trouble(path) == (caught.value.kind, str(caught.value))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert "Error" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.kind) == (str(caught.value), caught.value.kind)


def judged(path: Path) -> bool:
    """Whether a file is a picture, by the check, which decodes coarsely, and by the reader alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow may warn of a file that breaks off
        verdict = trouble(path)
        try:
            read(path)
            assert verdict is None
        except PictureError as error:
            assert verdict == (error.kind, str(error))
    return verdict is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "progressive"])
def test_a_file_cut_anywhere_is_judged_alike(tmp_path, kind):
    """What passes the check does not stop training later."""
    file = io.BytesIO()
    more = {"progressive": True} if kind == "progressive" else {}
    image(5, 60, 40).save(file, "JPEG" if more else kind, **more)
    whole, path, sound = file.getvalue(), tmp_path / "cut", 0
    for part in np.linspace(1, len(whole) - 1, 24).astype(int):
        path.write_bytes(whole[:part])
        sound += judged(path)
    assert sound < 14


@pytest.mark.parametrize("draws", [15, pytest.param(400, marks=pytest.mark.full)])
def test_a_damaged_file_is_judged_alike(tmp_path, draws):
    draw, found, path = np.random.default_rng(0), set(), tmp_path / "damaged"
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "TGA", "PPM", "ICO"):
        file = io.BytesIO()
        image(5, 64, 48).save(file, kind)
        for _ in range(draws):
            damaged = np.frombuffer(file.getvalue(), np.uint8).copy()
            reach = min(len(damaged), 10 ** draw.integers(2, 6))
            damaged[draw.integers(0, reach, 4)] = draw.integers(256)
            path.write_bytes(damaged.tobytes())
            found.add(judged(path))
    assert found == {True, False}


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((3, 90), "an image is 3 x 90 pixels: want at least 4 on each side"),
        ((404, 4), "an image is 404 x 4 pixels: want at most 100 times as long as wide"),
        ((10_000, 10_000), "want at most 89.5 million in all"),
    ],
)
def test_sizes_that_no_one_means(size, says):
    with pytest.raises(PictureError, match=says) as caught:
        read(Image.new("1", size))
    assert caught.value.kind == "size of an image"
    with pytest.raises(PictureError, match=says):
        evaluate.encode(processor("llava"), [([Image.new("1", size)], "?")])
    assert read(Image.new("1", (400, 4))).size == (400, 4)
